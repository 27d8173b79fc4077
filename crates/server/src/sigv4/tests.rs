//! Signatures against those of Amazon's own implementation: its recorded vectors, and requests that it signs.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use proptest::prelude::*;

use super::{SignatureFault, SignedRequest};

/// Where cargo keeps the sources of the crate with the vectors.
fn vectors() -> PathBuf {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let found = packages.iter().find(|package| package["name"] == "aws-sigv4").unwrap();
    let manifest = PathBuf::from(found["manifest_path"].as_str().unwrap());
    manifest.with_file_name("aws-signing-test-suite").join("v4")
}

/// A request as the vectors write it: lines, of which some go on on the next.
struct Parsed {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Parsed {
    fn new(text: &str) -> Self {
        let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
        let mut lines = head.lines();
        let first = lines.next().unwrap().trim_end_matches(" HTTP/1.1");
        let (method, target) = first.split_once(' ').unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut headers: Vec<(String, String)> = Vec::new();
        for line in lines {
            match line.split_once(':').filter(|_| !line.starts_with(' ')) {
                Some((name, value)) => headers.push((name.to_lowercase(), value.to_owned())),
                None => headers.last_mut().unwrap().1 += &format!("\n{line}"),
            }
        }
        Self { method: method.into(), path: path.into(), query: query.into(), headers, body: body.into() }
    }

    fn verify(&self, service: &str, now_micros: i64, secret: &str) -> Result<super::Signer, SignatureFault> {
        let (method, path, query) = (&self.method, &self.path, &self.query);
        let request =
            SignedRequest { method, path, query, headers: &self.headers, body: self.body.as_bytes() };
        request.verify(service, now_micros, |_| Some(secret.as_bytes().to_vec()))
    }
}

#[test]
fn the_vectors_of_amazon_are_taken_and_no_other_signature() {
    let (mut taken, mut compared, mut left_out) = (0, 0, 0);
    for entry in std::fs::read_dir(vectors()).unwrap() {
        let folder = entry.unwrap().path();
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap().replace("\r\n", "\n");
        if !folder.join("context.json").exists() {
            // Neither its secret nor its time is told: method, path and query are compared as they are signed.
            let request = Parsed::new(&read("header-signed-request.txt"));
            let (method, path, query) = (&request.method, &request.path, &request.query);
            let signed = SignedRequest { method, path, query, headers: &request.headers, body: b"" };
            let canonical = read("header-canonical-request.txt");
            let ours = signed.canonical(&["host"]);
            assert!(ours.lines().take(3).eq(canonical.lines().take(3)), "{ours}\n{canonical}");
            compared += 1;
            continue;
        }
        let context: serde_json::Value = serde_json::from_str(&read("context.json")).unwrap();
        if context["normalize"] == false {
            // Object stores alone take paths as they are.
            left_out += 1;
            continue;
        }
        let now = catchment_core::parse_time(context["timestamp"].as_str().unwrap()).unwrap();
        let secret = context["credentials"]["secret_access_key"].as_str().unwrap();
        let service = context["service"].as_str().unwrap();
        let mut request = Parsed::new(&read("header-signed-request.txt"));
        let signer = request.verify(service, now, secret);
        assert_eq!(
            signer.as_ref().map(|signer| signer.region.as_str()),
            Ok("us-east-1"),
            "{folder:?} {signer:?}"
        );
        assert!(matches!(request.verify(service, now, "another"), Err(SignatureFault::Wrong(_))));
        assert!(matches!(request.verify(service, now + 901_000_000, secret), Err(SignatureFault::Wrong(_))));
        assert!(matches!(request.verify(service, now - 901_000_000, secret), Err(SignatureFault::Wrong(_))));
        request.body.push('x');
        assert!(matches!(request.verify(service, now, secret), Err(SignatureFault::Wrong(_))), "{folder:?}");
        taken += 1;
    }
    assert_eq!((taken, compared, left_out), (31, 2, 7));
}

const NOW: u64 = 1_700_000_000;

/// A request that Amazon's implementation signed.
fn signed(body: &str, extra: &str, secret: &str) -> Parsed {
    let identity = Credentials::from_keys("CTKAEXAMPLE", secret, None).into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region("eu-west-1")
        .name("kinesis")
        .time(UNIX_EPOCH + Duration::from_secs(NOW))
        .settings(SigningSettings::default())
        .build()
        .unwrap()
        .into();
    let mut headers =
        vec![("host".to_owned(), "127.0.0.1".to_owned()), ("x-extra".to_owned(), extra.to_owned())];
    let borrowed: Vec<(&str, &str)> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let request = SignableRequest::new(
        "POST",
        "http://127.0.0.1/",
        borrowed.into_iter(),
        SignableBody::Bytes(body.as_bytes()),
    )
    .unwrap();
    let (instructions, _) = sign(request, &parameters).unwrap().into_parts();
    headers.extend(instructions.headers().map(|(name, value)| (name.to_lowercase(), value.to_owned())));
    Parsed { method: "POST".into(), path: "/".into(), query: String::new(), headers, body: body.into() }
}

proptest! {
    #[test]
    fn what_amazon_signs_is_taken_and_one_byte_off_is_not(body in ".{0,200}", extra in "[ -~]{0,30}", secret in "[ -~]{1,40}", at: prop::sample::Index, bit in 0u32..4) {
        let mut request = signed(&body, &extra, &secret);
        let now = i64::try_from(NOW).unwrap() * 1_000_000;
        prop_assert!(request.verify("kinesis", now, &secret).is_ok());
        let authorization = request.headers.iter_mut().find(|(name, _)| name == "authorization").unwrap();
        // Any hexadecimal digit of the signature.
        let start = authorization.1.len() - 64;
        let place = start + at.index(64);
        let digit = u32::from_str_radix(&authorization.1[place..=place], 16).unwrap() ^ (1 << bit);
        authorization.1.replace_range(place..=place, &format!("{digit:x}"));
        let refused = matches!(request.verify("kinesis", now, &secret), Err(SignatureFault::Wrong(_)));
        prop_assert!(refused);
    }

    #[test]
    fn a_signature_is_good_for_the_operation_that_it_was_made_for(body in ".{0,50}") {
        let now = i64::try_from(NOW).unwrap() * 1_000_000;
        let mut request = signed(&body, "x", "secret");
        request.headers.push(("x-amz-target".into(), "Kinesis_20131202.DeleteStream".into()));
        let refused = matches!(request.verify("kinesis", now, "secret"), Err(SignatureFault::Wrong(_)));
        prop_assert!(refused);
    }

    #[test]
    fn no_header_takes_the_check_down(authorization in ".{0,200}", date in ".{0,20}", query in ".{0,40}", path in ".{0,40}") {
        for authorization in [authorization.clone(), format!("AWS4-HMAC-SHA256 {authorization}"), format!("AWS4-HMAC-SHA256 Credential=a/b/c/kinesis/aws4_request, SignedHeaders=host, Signature={authorization}")] {
            let headers = [("authorization".to_owned(), authorization), ("x-amz-date".to_owned(), date.clone())];
            let request = SignedRequest { method: "POST", path: &path, query: &query, headers: &headers, body: b"" };
            prop_assert!(request.verify("kinesis", 0, |_| None).is_err());
        }
    }
}
