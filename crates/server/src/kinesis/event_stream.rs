//! Messages of an event stream, `application/vnd.amazon.eventstream`: lengths, headers, payload, checksums.

use crate::kinesis::value::{Codec, Structure, Value};

/// The message that begins an answer.
pub(super) fn initial(codec: Codec) -> Vec<u8> {
    event("initial-response", codec, &Structure::default().into())
}

/// A message that holds a value.
pub(super) fn event(kind: &str, codec: Codec, value: &Value) -> Vec<u8> {
    let headers =
        [(":message-type", "event"), (":event-type", kind), (":content-type", codec.content_type())];
    message(&headers, &codec.write(value))
}

/// A message: total length, length of headers, CRC-32 of both, headers, payload, CRC-32 of all before.
fn message(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    /// The type of a header that is text.
    const TEXT: u8 = 7;
    let mut head = Vec::new();
    for (name, value) in headers {
        head.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        head.extend(name.as_bytes());
        head.push(TEXT);
        head.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        head.extend(value.as_bytes());
    }
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = Vec::with_capacity(16 + head.len() + payload.len());
    bytes.extend(length(16 + head.len() + payload.len()));
    bytes.extend(length(head.len()));
    bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
    bytes.extend(head);
    bytes.extend(payload);
    bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
    bytes
}
