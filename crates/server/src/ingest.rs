//! `POST /v1/streams/{name}`: records by plain HTTP.
//!
//! A body is one JSON document, an array of them, or one a line; gzip and Zstandard are taken. All of it is kept, or nothing.

use std::io::Read;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Response, StatusCode, header};
use bytes::Bytes;
use catchment_core::{Code, Error};
use catchment_log::{Entry, Stream};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// Bytes of the largest body, once it is not compressed any more.
const LARGEST: u64 = 64 << 20;

/// Records of one body.
const MOST: usize = 100_000;

/// Says what is wrong with a record, `None` when nothing is.
pub type RecordCheck = Arc<dyn Fn(&[u8]) -> Option<String> + Send + Sync>;

/// Why a body is not taken.
#[derive(Debug)]
pub(crate) struct Refused {
    status: StatusCode,
    message: String,
    line: Option<usize>,
}

impl Refused {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), line: None }
    }

    fn at(line: usize, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into(), line: Some(line) }
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let mut body = json!({ "error": self.message });
        if let Some(line) = self.line {
            body["line"] = json!(line);
        }
        answer(self.status, &body)
    }
}

fn answer(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{body}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    response
}

/// Writes the records of a body, each under the text of its field `key`, or to any shard; answers once they are durable.
pub(crate) async fn put(
    stream: &Stream,
    headers: &HeaderMap,
    body: Bytes,
    key: Option<&str>,
    check: Option<&RecordCheck>,
) -> Response<Body> {
    let most = stream.state().record_bytes;
    let entries = match decompressed(headers, body).and_then(|body| records(&body, key, most, check)) {
        Ok(entries) => entries,
        Err(refused) => return refused.into_response(),
    };
    let count = entries.len();
    match stream.append(entries).await {
        Ok(appended) => {
            let mut shards = serde_json::Map::new();
            for at in &appended {
                let sequence = at.sequence.to_string();
                let range =
                    shards.entry(at.shard.to_string()).or_insert_with(|| json!({ "first": sequence }));
                range["last"] = json!(sequence);
            }
            answer(StatusCode::ACCEPTED, &json!({ "records": count, "shards": shards }))
        }
        Err(error) => failed(&error).into_response(),
    }
}

fn failed(error: &Error) -> Refused {
    let status = match error.code() {
        Code::STREAM_BUSY => StatusCode::TOO_MANY_REQUESTS,
        Code::STREAM_UNKNOWN => StatusCode::NOT_FOUND,
        Code::RECORD_LARGE => StatusCode::PAYLOAD_TOO_LARGE,
        Code::DISK_FULL => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refused::new(status, error.to_string())
}

fn decompressed(headers: &HeaderMap, body: Bytes) -> Result<Bytes, Refused> {
    let encoding = headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes().to_ascii_lowercase());
    let reader: Box<dyn Read> = match encoding.as_deref() {
        None | Some(b"identity") => return Ok(body),
        Some(b"gzip") => Box::new(flate2::read::MultiGzDecoder::new(&body[..])),
        Some(b"zstd") => Box::new(
            zstd::Decoder::new(&body[..])
                .map_err(|error| Refused::new(StatusCode::BAD_REQUEST, format!("not Zstandard: {error}")))?,
        ),
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            return Err(Refused::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!("content encoding {other:?} is not known; send gzip or zstd"),
            ));
        }
    };
    let mut plain = Vec::new();
    reader.take(LARGEST + 1).read_to_end(&mut plain).map_err(|error| {
        Refused::new(StatusCode::BAD_REQUEST, format!("the body cannot be decompressed: {error}"))
    })?;
    if plain.len() as u64 > LARGEST {
        return Err(Refused::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body has more than {LARGEST} bytes once it is decompressed"),
        ));
    }
    Ok(plain.into())
}

/// The records of a body. A body that begins with `[` is one array; otherwise each line is a document, or all lines together are one.
fn records(
    body: &Bytes,
    key: Option<&str>,
    most: usize,
    check: Option<&RecordCheck>,
) -> Result<Vec<Entry>, Refused> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let line = body[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        Refused::at(line, "invalid UTF-8")
    })?;
    let wrong = |error: &serde_json::Error| Refused::at(error.line(), format!("not JSON: {error}"));
    let mut documents: Vec<(usize, &str)> = Vec::new();
    if text.trim_start().starts_with('[') {
        let all: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| wrong(&error))?;
        documents.extend(all.iter().enumerate().map(|(index, document)| (index + 1, document.get())));
    } else if let Ok(one) = serde_json::from_str::<&RawValue>(text) {
        documents.push((1, one.get()));
    } else {
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let document: &RawValue = serde_json::from_str(line)
                .map_err(|error| Refused::at(index + 1, format!("not JSON: {error}")))?;
            documents.push((index + 1, document.get()));
        }
    }
    if documents.len() > MOST {
        return Err(Refused::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a body has at most {MOST} records"),
        ));
    }
    if documents.is_empty() {
        return Err(Refused::new(StatusCode::BAD_REQUEST, "the body holds no record"));
    }
    let entry = |(line, document): (usize, &str)| {
        if !document.starts_with('{') {
            return Err(Refused::at(line, "a record is a JSON object"));
        }
        if let Some(reason) = check.and_then(|check| check(document.as_bytes())) {
            return Err(Refused::at(line, reason));
        }
        if document.len() > most {
            return Err(Refused {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                ..Refused::at(line, format!("a record has at most {most} bytes"))
            });
        }
        let key = match key {
            None => uuid::Uuid::new_v4().to_string(),
            Some(field) => key_of(document, field)
                .ok_or_else(|| Refused::at(line, format!("no field {field:?} to decide the shard")))?,
        };
        // What stands on several lines is one record all the same.
        let data = if document.contains(['\n', '\r']) {
            document.replace(['\n', '\r'], " ")
        } else {
            document.to_owned()
        };
        Ok(Entry::new(key, data.into_bytes()))
    };
    documents.into_iter().map(entry).collect()
}

/// The text of a field of a JSON object; a key has at most 256 characters.
fn key_of(document: &str, field: &str) -> Option<String> {
    let text = match serde_json::from_str::<Value>(document).ok()?.get(field)? {
        Value::String(text) => text.clone(),
        Value::Null => return None,
        other => other.to_string(),
    };
    (!text.is_empty()).then(|| text.chars().take(256).collect())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::records;

    fn of(body: &str, key: Option<&str>) -> Result<Vec<(String, String)>, Option<usize>> {
        let entries = records(&Bytes::copy_from_slice(body.as_bytes()), key, 100, None)
            .map_err(|refused| refused.line)?;
        Ok(entries
            .into_iter()
            .map(|entry| (entry.partition_key, String::from_utf8(entry.data.to_vec()).unwrap()))
            .collect())
    }

    #[test]
    fn a_document_an_array_and_lines_are_taken() {
        let texts =
            |body: &str| of(body, None).map(|all| all.into_iter().map(|(_, text)| text).collect::<Vec<_>>());
        assert_eq!(texts("{\"a\":\n 1}"), Ok(vec!["{\"a\":  1}".to_owned()]));
        let two = vec!["{\"a\":1}".to_owned(), "{\"a\": [2]}".to_owned()];
        assert_eq!(texts(" [{\"a\":1},\n{\"a\": [2]}] "), Ok(two.clone()));
        assert_eq!(texts("{\"a\":1}\r\n\n{\"a\": [2]}"), Ok(two));
        assert_eq!(
            of("{\"a\":7}\n{\"a\":\"x\"}", Some("a"))
                .unwrap()
                .iter()
                .map(|(key, _)| key.as_str())
                .collect::<Vec<_>>(),
            ["7", "x"]
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        assert_eq!(of("{\"a\":1}\n{\"a\":\n{}", None), Err(Some(2)));
        assert_eq!(of("{\"a\":1}\n\n7", None), Err(Some(3)));
        assert_eq!(of("[{\"a\":1},\n7]", None), Err(Some(2)));
        assert_eq!(of("[{\"a\":1},\n{]", None), Err(Some(2)));
        assert_eq!(of("{\"a\":1}\n{\"b\":1}", Some("a")), Err(Some(2)));
        assert_eq!(of("", None), Err(None));
        assert_eq!(of(&format!("{{\"a\":\"{}\"}}", "x".repeat(200)), None), Err(Some(1)));
    }

    proptest! {
        #[test]
        fn no_body_takes_it_down(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = records(&Bytes::from(body), Some("a"), 100, None);
        }
    }
}
