//! Which state of a table a query asks for: `VERSION AS OF 3`, `VERSION AS OF 'v1.2'`, `TIMESTAMP AS OF '2024-01-31'`.

use catchment_core::{Code, Error, Result, parse_time};
use datafusion::sql::sqlparser::ast::{Expr, TableVersion, Value};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use crate::text::SqlText;

/// A state of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AsOf {
    /// This version.
    Version(u64),
    /// The version that it had at this time, in microseconds since the Unix epoch.
    Time(i64),
    /// The version that it has in a release.
    Release(String),
}

impl std::fmt::Display for AsOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AsOf::Version(version) => write!(f, "VERSION AS OF {version}"),
            AsOf::Time(time) => write!(f, "TIMESTAMP AS OF '{}'", catchment_core::timestamp_text(*time)),
            AsOf::Release(name) => write!(f, "VERSION AS OF '{name}'"),
        }
    }
}

impl AsOf {
    /// Reads what people write behind `AS OF`: a version, a time, or else the name of a release.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match (text.parse(), parse_time(text)) {
            (Ok(version), _) => AsOf::Version(version),
            (_, Some(time)) => AsOf::Time(time),
            _ => AsOf::Release(text.to_owned()),
        }
    }
}

/// Lets the parser take a name behind `VERSION AS OF`, where it knows only numbers: it takes one as a time.
pub(crate) fn take_names(tokens: &mut [TokenWithSpan]) {
    let found: Vec<usize> = tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| !matches!(token.token, Token::Whitespace(_)))
        .map(|(index, _)| index)
        .collect();
    for window in found.windows(4) {
        let is = |index: usize, keyword| matches!(&tokens[window[index]].token, Token::Word(word) if word.keyword == keyword);
        if is(0, Keyword::VERSION)
            && is(1, Keyword::AS)
            && is(2, Keyword::OF)
            && matches!(tokens[window[3]].token, Token::SingleQuotedString(_))
        {
            tokens[window[0]].token = Token::make_keyword("TIMESTAMP");
        }
    }
}

pub(crate) fn as_of(version: Option<&TableVersion>, text: &SqlText, span: Span) -> Result<Option<AsOf>> {
    let wrong = |what: String| Error::new(Code::SQL_SYNTAX, what).at(text.place(span));
    match version {
        None => Ok(None),
        Some(TableVersion::VersionAsOf(Expr::Value(value))) => match &value.value {
            Value::Number(number, _) if number.parse::<u64>().is_ok() => {
                Ok(number.parse().ok().map(AsOf::Version))
            }
            other => Err(wrong(format!("{other} is not a version"))),
        },
        Some(TableVersion::TimestampAsOf(expr)) => {
            let value = match expr {
                Expr::Value(value) => Some(&value.value),
                Expr::TypedString(typed) => Some(&typed.value.value),
                _ => None,
            };
            match value {
                Some(Value::SingleQuotedString(text)) => match AsOf::parse(text) {
                    AsOf::Version(_) => Err(wrong(format!("'{text}' is not a time"))),
                    found => Ok(Some(found)),
                },
                _ => Err(wrong(format!("{expr} is not a time such as '2024-01-31 10:00:00'"))),
            }
        }
        Some(other) => {
            Err(Error::new(Code::NOT_SUPPORTED, format!("{other} is not supported yet")).at(text.place(span)))
        }
    }
}
