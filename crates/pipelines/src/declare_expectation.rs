//! `CONSTRAINT name EXPECT ...`, as it stands among the columns of a dataset.

use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_quality::{Action, Condition, Expectation, Horizon, Rule};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Span, Token};

use crate::statement::{Reader, normal};

impl Reader<'_> {
    /// What follows `CONSTRAINT`: `name EXPECT ( condition ) | EXPECT UNIQUE ( columns ) [ON VIOLATION action]`.
    pub(crate) fn expectation(&mut self) -> Result<(Expectation, Span)> {
        let span = self.parser.peek_token_ref().span;
        let name = normal(&self.parser.parse_identifier().map_err(|error| self.syntax(&error))?);
        if !self.word("expect") {
            return Err(self.unexpected("EXPECT"));
        }
        let rule = if self.word("unique") {
            let columns = self.name_list()?.into_iter().map(|(column, _)| column).collect();
            match self.word("within") {
                true => {
                    let at = self.parser.peek_token_ref().span;
                    let micros = self.interval()?;
                    if micros < 0 {
                        return Err(Error::new(
                            Code::SQL_SYNTAX,
                            "WITHIN takes a length of time that is not negative",
                        )
                        .at(self.text.place(at)));
                    }
                    Rule::UniqueWithin(columns, Horizon { column: String::new(), micros })
                }
                false => Rule::Unique(columns),
            }
        } else {
            self.parser.expect_token(&Token::LParen).map_err(|error| self.syntax(&error))?;
            let start = self.parser.peek_token_ref().span.start;
            let expr = self.parser.parse_expr().map_err(|error| self.syntax(&error))?;
            let end = match self.parser.index().checked_sub(1) {
                Some(last) => self.parser.token_at(last).span.end,
                None => start,
            };
            self.parser.expect_token(&Token::RParen).map_err(|error| self.syntax(&error))?;
            Rule::Condition(Condition {
                text: Arc::clone(self.text),
                span: Span::new(start, end),
                expr: Box::new(expr),
            })
        };
        let mut action = Action::Warn;
        if self.parser.parse_keyword(Keyword::ON) {
            if !self.word("violation") {
                return Err(self.unexpected("VIOLATION"));
            }
            action = self.action()?;
        }
        Ok((Expectation { name, rule, action }, span))
    }

    fn action(&mut self) -> Result<Action> {
        if self.word("warn") {
            return Ok(Action::Warn);
        }
        if self.word("quarantine") {
            return Ok(Action::Quarantine);
        }
        if self.word("drop") && self.word("row") {
            return Ok(Action::Drop);
        }
        if self.word("fail") && self.word("update") {
            return Ok(Action::Fail);
        }
        Err(self.unexpected("WARN, DROP ROW, FAIL UPDATE or QUARANTINE"))
    }
}
