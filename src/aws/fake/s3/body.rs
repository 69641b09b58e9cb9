//! Bodies of requests: taken out of `aws-chunked` framing, and held to the checksums they came with.
//!
//! Owns: chunks, trailers, CRC32 and SHA-256. Does not own: what a body is for (s3).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::Failure;
use crate::server::Call;

/// The body, checked.
pub(super) fn decode(call: &Call) -> Result<Bytes, Failure> {
    let streamed = call.header("x-amz-content-sha256").is_some_and(|hash| hash.starts_with("STREAMING-"));
    let (body, trailers) = match streamed {
        true => chunks(&call.body).ok_or((400, "IncompleteBody"))?,
        false => (call.body.clone(), String::new()),
    };
    let sum = |name: &str| {
        let line = trailers.lines().find_map(|line| line.split_once(':').filter(|(key, _)| *key == name));
        line.map(|(_, value)| value.trim()).or_else(|| call.header(name)).map(str::to_owned)
    };
    let crc = || STANDARD.encode(crc32fast::hash(&body).to_be_bytes());
    if sum("x-amz-checksum-crc32").is_some_and(|wanted| wanted != crc()) {
        return Err((400, "BadDigest"));
    }
    if sum("x-amz-checksum-sha256").is_some_and(|wanted| wanted != STANDARD.encode(Sha256::digest(&body))) {
        return Err((400, "BadDigest"));
    }
    Ok(body)
}

/// `<hex>[;…]\r\n<data>\r\n` until a length of 0, then trailers.
fn chunks(framed: &Bytes) -> Option<(Bytes, String)> {
    let (mut body, mut rest) = (Vec::new(), framed.as_ref());
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let head = std::str::from_utf8(&rest[..end]).ok()?;
        let len = usize::from_str_radix(head.split(';').next()?, 16).ok()?;
        rest = &rest[end + 2..];
        if len == 0 {
            return Some((body.into(), String::from_utf8_lossy(rest).into_owned()));
        }
        body.extend_from_slice(rest.get(..len)?);
        rest = rest.get(len + 2..)?;
    }
}
