//! `CREATE SERVING TABLE`.

use catchment_core::{Code, Error, Result};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Span, Token};

use crate::statement::{Body, DatasetKind, DatasetStatement, Reader};

/// What a serving table is declared with besides its query.
#[derive(Debug, Clone)]
pub struct ServingStatement {
    /// The columns that rows are found by, and where they stand.
    pub primary: Vec<(String, Span)>,
    /// The columns that rows of one primary key are in the order of.
    pub sort: Vec<(String, Span)>,
    /// How long a row stays after it was written last, in microseconds.
    pub time_to_live: Option<i64>,
    /// How often a service writes, at most, in microseconds.
    pub emit_every: Option<i64>,
}

/// Columns, and where they stand.
type Columns = Vec<(String, Span)>;

impl Reader<'_> {
    /// `TABLE name PRIMARY KEY (columns [SORT KEY (columns)]) [TTL interval] [EMIT EVERY interval] AS query`
    pub(crate) fn serving_table(&mut self) -> Result<Body> {
        self.parser.expect_keyword(Keyword::TABLE).map_err(|error| self.syntax(&error))?;
        self.if_not_exists()?;
        let name = self.name()?;
        let mut serving =
            ServingStatement { primary: Vec::new(), sort: Vec::new(), time_to_live: None, emit_every: None };
        let mut comment = None;
        loop {
            if self.parser.parse_keyword(Keyword::PRIMARY) {
                self.parser.expect_keyword(Keyword::KEY).map_err(|error| self.syntax(&error))?;
                (serving.primary, serving.sort) = self.key_columns()?;
            } else if self.word("ttl") {
                serving.time_to_live = Some(self.time()?);
            } else if self.word("emit") {
                if !self.word("every") {
                    return Err(self.unexpected("EVERY"));
                }
                serving.emit_every = Some(self.time()?);
            } else if self.parser.parse_keyword(Keyword::COMMENT) {
                comment = Some(self.parser.parse_literal_string().map_err(|error| self.syntax(&error))?);
            } else {
                break;
            }
        }
        if serving.primary.is_empty() {
            return Err(self.unexpected("PRIMARY KEY (columns)"));
        }
        self.parser.expect_keyword(Keyword::AS).map_err(|error| self.syntax(&error))?;
        let query = self.query()?;
        if let Some(late) = &self.words.late {
            return Err(Error::new(
                Code::SQL_SYNTAX,
                "a serving table has no late rows: they count whenever they come",
            )
            .at(self.text.place(late.span))
            .hint("take LATE ROWS away, or make it a STREAMING TABLE, whose windows close"));
        }
        Ok(Body::Dataset(DatasetStatement {
            kind: DatasetKind::ServingTable,
            name,
            columns: None,
            expectations: Vec::new(),
            partition_columns: Vec::new(),
            cluster_columns: Vec::new(),
            comment,
            properties: Vec::new(),
            query: Some(query),
            late: None,
            serving: Some(serving),
        }))
    }

    /// `(column, ... [SORT KEY (column, ...)])`
    fn key_columns(&mut self) -> Result<(Columns, Columns)> {
        self.parser.expect_token(&Token::LParen).map_err(|error| self.syntax(&error))?;
        let mut primary = Vec::new();
        loop {
            let span = self.parser.peek_token_ref().span;
            let name = self.parser.parse_identifier().map_err(|error| self.syntax(&error))?;
            primary.push((crate::statement::normal(&name), span));
            if !self.parser.consume_token(&Token::Comma) {
                break;
            }
        }
        let mut sort = Vec::new();
        if self.word("sort") {
            self.parser.expect_keyword(Keyword::KEY).map_err(|error| self.syntax(&error))?;
            sort = self.name_list()?;
        }
        self.parser.expect_token(&Token::RParen).map_err(|error| self.syntax(&error))?;
        Ok((primary, sort))
    }

    /// A length of time that is more than nothing, in microseconds.
    pub(crate) fn time(&mut self) -> Result<i64> {
        let at = self.parser.peek_token_ref().span;
        match self.interval()? {
            time if time > 0 => Ok(time),
            _ => Err(catchment_core::Error::new(
                catchment_core::Code::SQL_SYNTAX,
                "a time is more than nothing",
            )
            .at(self.text.place(at))),
        }
    }
}
