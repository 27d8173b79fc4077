//! `/v1/tables`: rows of serving tables by key.
//!
//! `GET /v1/tables/{table}/{key}` gives one row, or those of one primary key in the order of its sort key; each path segment is a
//! column of the key. `POST /v1/tables/{table}` with `{"keys": [[...], ...]}` gives the rows of several keys that are there.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use catchment_core::{Code, Error, Result};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::ingest::Refused;

/// Rows of an answer, unless it says otherwise.
const ROWS: usize = 100;

/// The most rows of an answer.
const MOST: usize = 10_000;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableRequest {
    /// Rows of whole keys, their values as text in the order of the key's columns.
    Keys(Vec<Vec<String>>),
    /// Rows of one primary key, or the one row of a whole key.
    Key {
        /// Values of the key's first columns.
        key: Vec<String>,
        /// The first value of the sort key.
        from: Option<String>,
        /// The first value that is not wanted any more.
        to: Option<String>,
        /// The most rows.
        limit: usize,
        /// Whether the last rows come first.
        descending: bool,
    },
}

/// Reads serving tables: by a table's name, rows as JSON; an object for one row, an array for several, `None` for a row that
/// is not there.
pub type ReadTable = Arc<dyn Fn(&str, &TableRequest) -> Result<Option<Vec<u8>>> + Send + Sync>;

/// Answers a request for rows of a table. `path` is what follows `/v1/tables/`.
pub(crate) fn answer(read: &ReadTable, path: &str, query: &str, body: Option<&[u8]>) -> Response<Body> {
    let (table, request) = match request(path, query, body) {
        Ok(request) => request,
        Err(refused) => return refused.into_response(),
    };
    match read(&table, &request) {
        Ok(Some(rows)) => {
            let mut response = Response::new(Body::from(rows));
            let json = header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response
        }
        Ok(None) => Refused::new(StatusCode::NOT_FOUND, "no row has this key").into_response(),
        Err(error) => failed(&error).into_response(),
    }
}

fn failed(error: &Error) -> Refused {
    let status = match error.code() {
        Code::TABLE_UNKNOWN => StatusCode::NOT_FOUND,
        Code::SQL_TYPE => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let hint = error.hint_text().map(|hint| format!("; {hint}")).unwrap_or_default();
    Refused::new(status, format!("{}{hint}", error.message()))
}

fn request(
    path: &str,
    query: &str,
    body: Option<&[u8]>,
) -> std::result::Result<(String, TableRequest), Refused> {
    let wrong = |message: String| Refused::new(StatusCode::BAD_REQUEST, message);
    let mut parts =
        path.split('/').map(|part| percent_decode_str(part).decode_utf8().map(|part| part.into_owned()));
    let mut parts = parts
        .by_ref()
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|_| wrong("the path is not UTF-8".to_owned()))?;
    let table = parts.remove(0);
    if let Some(body) = body {
        if !parts.is_empty() {
            return Err(wrong("keys stand in the body: {\"keys\": [[...], ...]}".to_owned()));
        }
        return Ok((table, TableRequest::Keys(keys(body)?)));
    }
    if parts.is_empty() {
        return Err(wrong(format!("name a key: /v1/tables/{table}/KEY")));
    }
    let (mut from, mut to, mut limit, mut descending) = (None, None, ROWS, false);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned();
        match (name, value.as_str()) {
            ("from", _) => from = Some(value),
            ("to", _) => to = Some(value),
            ("order", "asc") => descending = false,
            ("order", "desc") => descending = true,
            ("limit", _) => {
                let most = value.parse().ok().filter(|limit| (1..=MOST).contains(limit));
                limit =
                    most.ok_or_else(|| wrong(format!("limit is {value:?}, not a count of 1 to {MOST}")))?;
            }
            _ => {
                return Err(wrong(format!(
                    "no parameter {name}={value}; there are from, to, limit and order=asc|desc"
                )));
            }
        }
    }
    Ok((table, TableRequest::Key { key: parts, from, to, limit, descending }))
}

/// The keys of a body: arrays of values, or values of a key of one column.
fn keys(body: &[u8]) -> std::result::Result<Vec<Vec<String>>, Refused> {
    let wrong = |message: &str| Refused::new(StatusCode::BAD_REQUEST, message);
    let body: Value =
        serde_json::from_slice(body).map_err(|error| wrong(&format!("the body is not JSON: {error}")))?;
    let Some(keys) = body.get("keys").and_then(Value::as_array) else {
        return Err(wrong("the body has no keys: {\"keys\": [[...], ...]}"));
    };
    if keys.len() > MOST {
        return Err(wrong(&format!("{} keys, and {MOST} are the most", keys.len())));
    }
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        _ => Err(wrong("a key has texts, numbers, true and false")),
    };
    keys.iter()
        .map(|key| match key {
            Value::Array(values) => values.iter().map(text).collect(),
            value => Ok(vec![text(value)?]),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{TableRequest, request};

    fn message(path: &str, query: &str, body: Option<&[u8]>) -> String {
        format!("{:?}", request(path, query, body).unwrap_err())
    }

    #[test]
    fn paths_and_bodies_say_which_rows_are_wanted() {
        let key = |key: &[&str], from: Option<&str>, limit, descending| TableRequest::Key {
            key: key.iter().map(|part| (*part).to_owned()).collect(),
            from: from.map(str::to_owned),
            to: None,
            limit,
            descending,
        };
        assert_eq!(
            request("s.t/a%2Fb%20c/7", "", None).unwrap(),
            ("s.t".to_owned(), key(&["a/b c", "7"], None, 100, false))
        );
        assert_eq!(
            request("t/a", "from=2026-01-01+10:00&limit=5&order=desc", None).unwrap().1,
            key(&["a"], Some("2026-01-01 10:00"), 5, true)
        );
        let body = br#"{"keys": ["a", 7, ["b", true]]}"#;
        let keys = vec![vec!["a".to_owned()], vec!["7".to_owned()], vec!["b".to_owned(), "true".to_owned()]];
        assert_eq!(request("t", "", Some(body)).unwrap().1, TableRequest::Keys(keys));
        assert!(message("t", "", None).contains("name a key"));
        assert!(message("t/a", "limit=0", None).contains("not a count"));
        assert!(message("t/a", "sort=x", None).contains("no parameter"));
        assert!(message("t", "", Some(b"{")).contains("not JSON"));
        assert!(message("t", "", Some(b"{}")).contains("no keys"));
        assert!(message("t", "", Some(br#"{"keys": [null]}"#)).contains("texts, numbers"));
    }
}
