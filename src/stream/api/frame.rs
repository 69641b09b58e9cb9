//! The framing of `application/vnd.amazon.eventstream`.
//!
//! ```text
//! total length   u32, big endian, of everything
//! header length  u32
//! prelude crc32  u32, over the eight bytes before it
//! headers        per header: name length u8, name, type u8 (7 = text), value length u16, value
//! payload
//! message crc32  u32, over everything before it
//! ```
//!
//! Owns: one message's bytes. Does not own: which messages a subscription sends (subscribe).

use bytes::Bytes;

const TEXT: u8 = 7;

/// An event of this type.
pub(super) fn event(kind: &str, payload: &[u8]) -> Bytes {
    message(&[(":message-type", "event"), (":event-type", kind), (":content-type", "application/x-amz-json-1.1")], payload)
}

/// An exception, which ends a stream.
pub(super) fn exception(kind: &str, payload: &[u8]) -> Bytes {
    message(
        &[(":message-type", "exception"), (":exception-type", kind), (":content-type", "application/x-amz-json-1.1")],
        payload,
    )
}

fn message(headers: &[(&str, &str)], payload: &[u8]) -> Bytes {
    let header_length: usize = headers.iter().map(|(name, value)| 4 + name.len() + value.len()).sum();
    let total = 16 + header_length + payload.len();
    let mut bytes = Vec::with_capacity(total);
    bytes.extend_from_slice(&(total as u32).to_be_bytes());
    bytes.extend_from_slice(&(header_length as u32).to_be_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
    for (name, value) in headers {
        bytes.push(name.len() as u8);
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(TEXT);
        bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
        bytes.extend_from_slice(value.as_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
    Bytes::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_with_one_header_has_the_bytes_of_the_protocol_s_own_example() {
        // The vector `payload_one_str_header` of the protocol's published test set.
        let expected: [u8; 61] = [
            0x00, 0x00, 0x00, 0x3d, 0x00, 0x00, 0x00, 0x20, 0x07, 0xfd, 0x83, 0x96, 0x0c, b'c', b'o', b'n', b't', b'e', b'n',
            b't', b'-', b't', b'y', b'p', b'e', 0x07, 0x00, 0x10, b'a', b'p', b'p', b'l', b'i', b'c', b'a', b't', b'i', b'o',
            b'n', b'/', b'j', b's', b'o', b'n', b'{', b'\'', b'f', b'o', b'o', b'\'', b':', b'\'', b'b', b'a', b'r', b'\'', b'}',
            0x8d, 0x9c, 0x08, 0xb1,
        ];
        assert_eq!(message(&[("content-type", "application/json")], b"{'foo':'bar'}")[..], expected);
    }
}
