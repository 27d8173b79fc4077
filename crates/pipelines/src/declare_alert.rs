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
        let mut said = Vec::new();
        loop {
            let at = self.parser.peek_token_ref().span;
            let mut clauses = ["key", "every", "silence", "severity"].into_iter();
            let Some(clause) = clauses.find(|clause| self.word(clause)) else { break };
            if said.contains(&clause) {
                let what = format!("{} stands twice", clause.to_uppercase());
                return Err(Error::new(Code::DEFINED_TWICE, what).at(self.text.place(at)));
            }
            said.push(clause);
            match clause {
                "key" => alert.key = self.name_list()?,
                "every" => alert.every = self.asked_every()?,
                "silence" => alert.silence = self.time()?,
                _ => alert.severity = self.word_or_name()?.0,
            }
        }
        self.end()?;
        if let Some(late) = &self.words.late {
            let error = Error::new(Code::SQL_SYNTAX, "an alert has no late rows");
            return Err(error.at(self.text.place(late.span)));
        }
        Ok(Body::Alert(alert))
    }

    /// The time between two evaluations, in microseconds.
    fn asked_every(&mut self) -> Result<i64> {
        let at = self.parser.peek_token_ref().span;
        let every = self.time()?;
        match every < LEAST {
            true => Err(Error::new(Code::SQL_SYNTAX, "an alert is asked every 10 milliseconds at most")
                .at(self.text.place(at))),
            false => Ok(every),
        }
    }

    /// A name, as a word or as text.
    fn word_or_name(&mut self) -> Result<(String, Span)> {
        let span = self.parser.peek_token_ref().span;
        let name = self.parser.parse_identifier().map_err(|error| self.syntax(&error))?;
        Ok((normal(&name), span))
    }
}
