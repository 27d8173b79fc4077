//! The cases recorded from the language's own tests, and that what is written reads back.

use std::path::PathBuf;

use catchment_core::Error;
use proptest::prelude::{Strategy, prop, prop_assert_eq, proptest};

use crate::dqdl::{RuleNode, Ruleset, parse_analyzer, parse_rule, parse_ruleset};

/// Cases that are not taken, each with its reason.
const EXCLUDED: &[(&str, &str)] = &[(
    "Rules = [\n    ColumnValues \"Location-id\" in $locationVariable\n]",
    "half of a test string: the value it names is defined in the other half",
)];

#[expect(clippy::disallowed_methods, reason = "tests are told where the recorded cases are")]
fn cases() -> Option<Vec<serde_json::Value>> {
    let folder = std::env::var_os("CATCHMENT_CONFORMANCE").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"),
        PathBuf::from,
    );
    match std::fs::read_to_string(folder.join("dqdl_cases.jsonl")) {
        Ok(text) => Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "no recorded cases: {error}");
            eprintln!("skipped: set CATCHMENT_CONFORMANCE to the folder with the recorded cases");
            None
        }
    }
}

/// The text that a case reads back as, or the error.
fn read(case: &serde_json::Value) -> Result<(String, String), Error> {
    let text = |key: &str| case.get(key).and_then(serde_json::Value::as_str);
    let again = |text: &str| text.to_owned();
    if let Some(rule) = text("rule") {
        let read = parse_rule("t", rule)?;
        return Ok((read.to_string(), again(&parse_rule("t", &read.to_string())?.to_string())));
    }
    if let Some(analyzer) = text("analyzer") {
        let read = parse_analyzer("t", analyzer)?;
        return Ok((read.to_string(), parse_analyzer("t", &read.to_string())?.to_string()));
    }
    let read = parse_ruleset("t", text("dqdl").unwrap())?;
    Ok((read.to_string(), parse_ruleset("t", &read.to_string())?.to_string()))
}

#[test]
fn recorded_cases_are_read_as_recorded() {
    let Some(cases) = cases() else { return };
    assert!(cases.len() > 200);
    let mut wrong = Vec::new();
    for case in &cases {
        let text = case.get("dqdl").and_then(serde_json::Value::as_str).unwrap_or_default();
        if EXCLUDED.iter().any(|(excluded, _)| *excluded == text) {
            continue;
        }
        let read = read(case);
        let ok = match &read {
            // A few cases are recorded without a verdict; they are rulesets.
            Ok((first, second)) => {
                let formatted = case.get("formatted").and_then(serde_json::Value::as_str);
                case["valid"] != false
                    && first == second
                    && formatted.is_none_or(|formatted| formatted == first)
            }
            Err(error) => {
                let said = error.one_line();
                let parts = case.get("message_contains").and_then(serde_json::Value::as_array);
                case["valid"] == false
                    && parts
                        .is_none_or(|parts| parts.iter().all(|part| said.contains(part.as_str().unwrap())))
            }
        };
        if !ok {
            wrong.push(format!(
                "{case}\n    {}",
                read.map_or_else(|error| error.one_line(), |(text, _)| text)
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn strip(ruleset: Ruleset) -> String {
    ruleset.to_string()
}

proptest! {
    /// Pieces of rulesets in any order are read or refused, and never a panic; what is read is written alike twice.
    #[test]
    fn any_pieces_are_read_or_refused(pieces in prop::collection::vec(piece(), 0..30)) {
        let text = format!("Rules = [ {} ]", pieces.join(" "));
        if let Ok(ruleset) = parse_ruleset("t", &text) {
            let written = strip(ruleset);
            prop_assert_eq!(&strip(parse_ruleset("t", &written).unwrap()), &written);
        }
    }
}

fn piece() -> impl Strategy<Value = String> {
    let words = [
        "RowCount",
        "IsComplete",
        "ColumnValues",
        "\"c\"",
        "c",
        ">",
        "=",
        "5",
        "-1.5",
        "in",
        "[",
        "]",
        "1",
        ",",
        "between",
        "and",
        "or",
        "(",
        ")",
        "where",
        "\"a > 1\"",
        "with",
        "threshold",
        "not",
        "matches",
        "now()",
        "NULL",
        "labels=[\"a\"=\"b\"]",
        "# x\n",
        "\"",
        "$v",
        "(now() - 3 days)",
        "3 days",
        "avg(last(10))",
        "of",
    ];
    prop::sample::select(words.to_vec()).prop_map(str::to_owned)
}

#[test]
fn mistakes_are_told_with_their_places() {
    let error = parse_ruleset("q.dqdl", "Rules = [\n  IsComplet \"a\"\n]").unwrap_err();
    assert_eq!(error.hint_text(), Some("did you mean IsComplete?"));
    let place = error.place().unwrap();
    assert_eq!((place.line, place.column, place.length), (2, 3, 9));
    let deep = format!("{}RowCount > 0{}", "(".repeat(5_000), ")".repeat(5_000));
    assert!(parse_rule("t", &deep).unwrap_err().one_line().contains("nested too deeply"));
    assert!(matches!(parse_rule("t", "RowCount > 0").unwrap(), RuleNode::One(_)));
}
