//! The little XML and percent-encoding that S3 speaks.
//!
//! Owns: quoting, unquoting, the part list of a completion. Does not own: what is said (s3).

use bytes::Bytes;

/// With the declaration before it.
pub(super) fn document(body: &str) -> String {
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{body}")
}

/// Text inside an element.
pub(super) fn quote(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Takes percent-encoding off.
pub(super) fn unquote(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// (number, ETag) of each `<Part>`, as they stand.
pub(super) fn parts(body: &Bytes) -> Vec<(u32, String)> {
    let text = String::from_utf8_lossy(body);
    let field = |part: &str, name: &str| {
        let (_, rest) = part.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(value, _)| value.replace("&quot;", "\""))
    };
    let part = |part: &str| Some((field(part, "PartNumber")?.parse().ok()?, field(part, "ETag")?));
    text.split("<Part>").skip(1).filter_map(part).collect()
}
