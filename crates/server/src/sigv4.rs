//! AWS Signature Version 4: who sent a request, and that it is as it was sent.
//!
//! The canonical request and the signature are those of Amazon's documentation, "Create a signed AWS API request".

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use ring::{digest, hmac};

/// A request as far as it is signed.
#[derive(Debug)]
pub struct SignedRequest<'a> {
    /// Its method, in capitals.
    pub method: &'a str,
    /// Its path, as it was sent.
    pub path: &'a str,
    /// What stands behind the question mark, as it was sent.
    pub query: &'a str,
    /// Its headers: names in small letters, values of a name that comes more than once in their order.
    pub headers: &'a [(String, String)],
    /// Its body.
    pub body: &'a [u8],
}

/// Why a request is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureFault {
    /// There is no signature.
    Missing,
    /// Parts of it are missing; the text tells which.
    Incomplete(String),
    /// Nobody has such a key.
    UnknownKey,
    /// It is not the signature of this request, or too old; the text tells.
    Wrong(String),
}

/// Who signed a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The access key.
    pub access_key: String,
    /// The region that the request is for.
    pub region: String,
}

/// How far the time of a request may be from ours, in seconds.
const SKEW: i64 = 900;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// The parts of an `Authorization` header.
struct Authorization {
    credential: Option<String>,
    headers: Option<String>,
    signature: Option<String>,
}

impl Authorization {
    fn parse(text: &str) -> Option<Self> {
        let rest = text.trim().strip_prefix(ALGORITHM)?;
        let parts: BTreeMap<&str, &str> =
            rest.split([',', ' ']).filter_map(|part| part.trim().split_once('=')).collect();
        let part =
            |name: &str| parts.get(name).map(|value| (*value).to_owned()).filter(|value| !value.is_empty());
        Some(Self {
            credential: part("Credential"),
            headers: part("SignedHeaders"),
            signature: part("Signature"),
        })
    }
}

impl SignedRequest<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The region that the request says it is for, whoever signed it.
    #[must_use]
    pub fn region(&self) -> Option<String> {
        let credential = Authorization::parse(self.header("authorization")?)?.credential?;
        credential.split('/').nth(2).map(str::to_owned).filter(|region| !region.is_empty())
    }

    /// Makes sure that the request was signed by someone whose secret is known, now and as it is.
    ///
    /// # Errors
    /// Returns what is wrong with the signature.
    pub fn verify(
        &self,
        service: &str,
        now_micros: i64,
        secret: impl FnOnce(&str) -> Option<Vec<u8>>,
    ) -> Result<Signer, SignatureFault> {
        let text = self.header("authorization").ok_or(SignatureFault::Missing)?;
        if self.query.contains("X-Amz-Algorithm=") {
            return Err(SignatureFault::Wrong(
                "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header."
                    .to_owned(),
            ));
        }
        let time = self.header("x-amz-date").or(self.header("date"));
        let parts = Authorization::parse(text);
        let missing = |name: &str| format!("Authorization header requires '{name}' parameter. ");
        let (
            Some(Authorization {
                credential: Some(credential),
                headers: Some(names),
                signature: Some(signature),
            }),
            Some(time),
        ) = (&parts, time)
        else {
            let has = |part: fn(&Authorization) -> bool| parts.as_ref().is_some_and(part);
            let mut told = String::new();
            for (name, is_there) in [
                ("Credential", has(|parts| parts.credential.is_some())),
                ("Signature", has(|parts| parts.signature.is_some())),
                ("SignedHeaders", has(|parts| parts.headers.is_some())),
            ] {
                if !is_there {
                    told += &missing(name);
                }
            }
            if time.is_none() {
                told +=
                    "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. ";
            }
            return Err(SignatureFault::Incomplete(format!(
                "{told}Authorization={}",
                text.split([' ', ',']).next().unwrap_or_default()
            )));
        };
        let scope: Vec<&str> = credential.split('/').collect();
        let [access_key, day, region, for_service, "aws4_request"] = scope[..] else {
            return Err(SignatureFault::Incomplete(
                "Credential must be ACCESS_KEY/DATE/REGION/SERVICE/aws4_request.".to_owned(),
            ));
        };
        if for_service != service {
            return Err(SignatureFault::Wrong(format!(
                "Credential should be scoped to correct service: '{service}'. "
            )));
        }
        let signed_at = parse_time(time)
            .filter(|_| time.starts_with(day))
            .ok_or_else(|| SignatureFault::Wrong(format!("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{day}' != '{time}'.")))?;
        let now = now_micros / 1_000_000;
        if signed_at < now - SKEW {
            let least = text_of(now - SKEW);
            return Err(SignatureFault::Wrong(format!(
                "Signature expired: {time} is now earlier than {least} ({} - 15 min.)",
                text_of(now)
            )));
        }
        if signed_at > now + SKEW {
            let most = text_of(now + SKEW);
            return Err(SignatureFault::Wrong(format!(
                "Signature not yet current: {time} is still later than {most} ({} + 15 min.)",
                text_of(now)
            )));
        }
        let names: Vec<&str> = names.split(';').collect();
        if !names.iter().any(|name| ["host", ":authority"].contains(name)) {
            return Err(SignatureFault::Wrong(
                "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.".to_owned(),
            ));
        }
        // Some clients add the token of a session once all else is signed; it means nothing here.
        let unsigned = |(name, _): &&(String, String)| {
            name.starts_with("x-amz-") && name != "x-amz-security-token" && !names.contains(&name.as_str())
        };
        if let Some((name, _)) = self.headers.iter().find(unsigned) {
            return Err(SignatureFault::Wrong(format!(
                "'{name}' must be a 'SignedHeader' in the AWS Authorization."
            )));
        }
        let secret = secret(access_key).ok_or(SignatureFault::UnknownKey)?;
        let scope = format!("{day}/{region}/{service}/aws4_request");
        let string = string_to_sign(time, &scope, &self.canonical(&names));
        let given = from_hex(signature).unwrap_or_default();
        let key = signing_key(&secret, day, region, service);
        // Compared in constant time.
        if hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()), string.as_bytes(), &given).is_err()
        {
            return Err(SignatureFault::Wrong("The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.".to_owned()));
        }
        Ok(Signer { access_key: access_key.to_owned(), region: region.to_owned() })
    }

    /// The canonical request, with the headers of these names.
    fn canonical(&self, names: &[&str]) -> String {
        let mut text =
            format!("{}\n{}\n{}\n", self.method, canonical_path(self.path), canonical_query(self.query));
        for name in names {
            let values: Vec<String> = self
                .headers
                .iter()
                .filter(|(known, _)| known == name)
                .map(|(_, value)| trimmed(value))
                .collect();
            text += &format!("{name}:{}\n", values.join(","));
        }
        text + &format!("\n{}\n{}", names.join(";"), hex(digest::digest(&digest::SHA256, self.body).as_ref()))
    }
}

/// What stays as it is in a path or a query: letters, digits, `-`, `.`, `_` and `~`.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A path without steps, each part escaped once more than it was sent.
fn canonical_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let escaped: Vec<String> =
        parts.iter().map(|part| utf8_percent_encode(part, ESCAPED).to_string()).collect();
    let end = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    format!("/{}{end}", escaped.join("/"))
}

/// The parameters of a query, sorted.
fn canonical_query(query: &str) -> String {
    let escape = |text: &str| {
        let plain = percent_decode_str(text).collect::<Vec<u8>>();
        percent_encoding::percent_encode(&plain, ESCAPED).to_string()
    };
    let mut parts: Vec<(String, String)> = query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once('=').unwrap_or((part, "")))
        .map(|(name, value)| (escape(name), escape(value)))
        .collect();
    parts.sort();
    parts.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// A header's value without blanks around it, and with one where there are several.
fn trimmed(value: &str) -> String {
    value.split([' ', '\t', '\n']).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn string_to_sign(time: &str, scope: &str, canonical: &str) -> String {
    let digest = digest::digest(&digest::SHA256, canonical.as_bytes());
    format!("{ALGORITHM}\n{time}\n{scope}\n{}", hex(digest.as_ref()))
}

fn signing_key(secret: &[u8], day: &str, region: &str, service: &str) -> hmac::Tag {
    let sign = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let of_day = sign(&[b"AWS4", secret].concat(), day);
    let of_region = sign(of_day.as_ref(), region);
    sign(sign(of_region.as_ref(), service).as_ref(), "aws4_request")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// Reads `20150830T123600Z` as seconds since the Unix epoch.
fn parse_time(text: &str) -> Option<i64> {
    if text.len() != 16 || !text.is_ascii() {
        return None;
    }
    let part = |from: usize, to: usize| &text[from..to];
    let iso = format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0, 4),
        part(4, 6),
        part(6, 8),
        part(9, 11),
        part(11, 13),
        part(13, 15)
    );
    (part(8, 9) == "T" && part(15, 16) == "Z")
        .then(|| catchment_core::parse_time(&iso))?
        .map(|micros| micros / 1_000_000)
}

fn text_of(seconds: i64) -> String {
    catchment_core::timestamp_text(seconds * 1_000_000).replace(['-', ':'], "").replace(".000", "")
}

#[cfg(test)]
mod tests;
