//! `CREATE ALERT`.

use catchment_core::{Code, Error, Result, TableName};
use catchment_sql::{ParsedQuery, parse_query};
use datafusion::sql::sqlparser::tokenizer::{Span, Token};

use crate::statement::{Body, Reader, normal};

/// How often an alert's query is asked when it does not say, in microseconds.
const EVERY: i64 = 1_000_000;

/// The least time between two evaluations, in microseconds.
const LEAST: i64 = 10_000;

/// How bad an alert is that does not say.
const SEVERITY: &str = "warning";

/// A query whose rows somebody is told of.
#[derive(Debug, Clone)]
pub struct AlertStatement {
    /// Its name, and where that stands.
    pub name: (TableName, Span),
    /// What is asked.
    pub query: ParsedQuery,
    /// Who is told, and where that stands.
    pub targets: Vec<(String, Span)>,
    /// The columns that tell rows apart; all when there are none.
    pub key: Vec<(String, Span)>,
    /// How often the query is asked, in microseconds.
    pub every: i64,
    /// How long nobody is told again of a key, in microseconds.
    pub silence: i64,
    /// How bad it is.
    pub severity: String,
}

impl Reader<'_> {
    /// `name ON (query) NOTIFY target, ... [KEY (columns)] [EVERY interval] [SILENCE interval] [SEVERITY name]`
    pub(crate) fn alert(&mut self) -> Result<Body> {
        self.if_not_exists()?;
        let name = self.name()?;
        if !self.word("on") {
            return Err(self.unexpected("ON (query)"));
        }
        self.parser.expect_token(&Token::LParen).map_err(|error| self.syntax(&error))?;
        let query = parse_query(&mut self.parser, &self.words, self.text)?;
        self.parser.expect_token(&Token::RParen).map_err(|error| self.syntax(&error))?;
        if !self.word("notify") {
            return Err(self.unexpected("NOTIFY target"));
        }
        let mut targets = Vec::new();
        loop {
            let (target, at) = self.word_or_name()?;
            if targets.iter().any(|(known, _)| *known == target) {
                let error = Error::new(Code::DEFINED_TWICE, format!("target \"{target}\" is named twice"));
                return Err(error.at(self.text.place(at)));
            }
            targets.push((target, at));
            if !self.parser.consume_token(&Token::Comma) {
                break;
            }
        }
        let mut alert = AlertStatement {
            name,
            query,
            targets,
            key: Vec::new(),
            every: EVERY,
            silence: 0,
            severity: SEVERITY.to_owned(),
        };
        loop {
            if self.word("key") {
                alert.key = self.name_list()?;
            } else if self.word("every") {
                let at = self.parser.peek_token_ref().span;
                alert.every = self.time()?;
                if alert.every < LEAST {
                    let what = "an alert is asked every 10 milliseconds at most";
                    return Err(Error::new(Code::SQL_SYNTAX, what).at(self.text.place(at)));
                }
            } else if self.word("silence") {
                alert.silence = self.time()?;
            } else if self.word("severity") {
                alert.severity = self.word_or_name()?.0;
            } else {
                break;
            }
        }
        self.end()?;
        if let Some(late) = &self.words.late {
            let error = Error::new(Code::SQL_SYNTAX, "an alert has no late rows");
            return Err(error.at(self.text.place(late.span)));
        }
        Ok(Body::Alert(alert))
    }

    /// A name, as a word or as text.
    fn word_or_name(&mut self) -> Result<(String, Span)> {
        let span = self.parser.peek_token_ref().span;
        let name = self.parser.parse_identifier().map_err(|error| self.syntax(&error))?;
        Ok((normal(&name), span))
    }
}
