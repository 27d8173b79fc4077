//! `CREATE STREAM`: a stream with its columns, its time and, when it is the project's own, its shards.
//!
//! A declared stream is read through two queries, as a view is: one that reads it as a stream, with its watermark, and one
//! that reads all of it.

use catchment_core::{Code, Error, Result, TableName};
use catchment_sql::{ParsedQuery, SqlText, parse_single_query, require_columns};
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token};

use crate::statement::{Body, DatasetKind, Reader, normal};

/// A stream that a project reads.
#[derive(Debug, Clone)]
pub struct StreamStatement {
    /// Its name, and where that stands.
    pub name: (TableName, Span),
    /// What reads it as a stream.
    pub streaming: ParsedQuery,
    /// What reads all of it.
    pub whole: ParsedQuery,
    /// How it is made, when it is the project's own and is not there yet.
    pub own: Option<OwnStream>,
}

/// A stream of the project's own log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnStream {
    /// Its name there.
    pub name: String,
    /// Its shards.
    pub shards: u32,
    /// How long its records are kept; `None` for as long as a stream's that says nothing.
    pub retention_hours: Option<u32>,
}

/// What stands in the parentheses behind a stream's name.
#[derive(Default)]
struct Columns {
    /// As the option `schema` of a source has them.
    text: Vec<String>,
    /// The watermark's clause.
    watermark: Option<String>,
}

/// Shards that a stream may be declared with.
const MOST_SHARDS: u32 = 10_000;

impl Reader<'_> {
    /// What follows `CREATE STREAM`: a declaration, or `AS` and a query for a streaming table.
    pub(crate) fn stream(&mut self) -> Result<Body> {
        self.if_not_exists()?;
        let name = self.name()?;
        if self.parser.peek_token_ref().token != Token::LParen {
            return self.named_dataset(DatasetKind::StreamingTable, name);
        }
        self.parser.next_token();
        let columns = self.stream_columns()?;
        let source = match self.parser.parse_keyword(Keyword::FROM) {
            true => Some(self.source_function()?),
            false => None,
        };
        // Streams have one name; that of another schema than the project's own keeps its schema.
        let own_name = match name.0.schema == self.default_schema {
            true => name.0.table.clone(),
            false => name.0.to_string(),
        };
        let mut own = OwnStream { name: own_name, shards: 1, retention_hours: None };
        let mut schema_file = None;
        let options = self.parser.peek_token_ref().span;
        loop {
            if self.word("retention") {
                own.retention_hours = Some(self.hours()?);
            } else if self.word("shards") {
                let shards = self.parser.parse_literal_uint().map_err(|error| self.syntax(&error))?;
                own.shards = u32::try_from(shards)
                    .ok()
                    .filter(|shards| (1..=MOST_SHARDS).contains(shards))
                    .ok_or_else(|| {
                    self.wrong(
                        options,
                        format!("a stream has between 1 and {MOST_SHARDS} shards, not {shards}"),
                    )
                })?;
            } else if self.parser.parse_keyword(Keyword::SCHEMA) {
                schema_file = Some(self.parser.parse_literal_string().map_err(|error| self.syntax(&error))?);
                self.violation()?;
            } else {
                break;
            }
        }
        if source.is_some() && own != (OwnStream { name: own.name.clone(), shards: 1, retention_hours: None })
        {
            return Err(self.wrong(
                options,
                "SHARDS and RETENTION are of a stream of the project's own, without FROM".to_owned(),
            ));
        }
        self.end()?;
        let call = call(source.as_deref(), &own.name, &columns, schema_file.as_deref());
        let span = name.1;
        let watermark = columns.watermark.map_or_else(String::new, |clause| format!(" {clause}"));
        Ok(Body::Stream(StreamStatement {
            name,
            streaming: self.reading(&format!("SELECT * FROM STREAM {call}{watermark}"), span)?,
            whole: self.reading(&format!("SELECT * FROM {call}"), span)?,
            own: source.is_none().then_some(own),
        }))
    }

    fn wrong(&self, at: Span, what: String) -> Error {
        Error::new(Code::SQL_SYNTAX, what).at(self.text.place(at))
    }

    /// A query that stands for the declaration.
    fn reading(&self, query: &str, span: Span) -> Result<ParsedQuery> {
        parse_single_query(&SqlText::new(self.text.file(), query))
            .map(ParsedQuery::standing_for_source)
            .map_err(|error| error.without_place().at(self.text.place(span)))
    }

    fn stream_columns(&mut self) -> Result<Columns> {
        let (mut columns, mut fields, mut time) = (Columns::default(), Vec::new(), None);
        loop {
            let start = self.parser.peek_token_ref().span.start;
            if self.peek_word("watermark") && self.has_delay() {
                time = Some(self.watermark_clause()?);
                columns.watermark = Some(self.since(start));
            } else {
                let at = self.parser.peek_token_ref().span;
                self.column(&mut fields)?;
                if fields.last().is_some_and(|field| field.name() == "_metadata") {
                    let what = "_metadata is the column of a stream that tells where a record comes from";
                    return Err(Error::new(Code::NAME_INVALID, what)
                        .at(self.text.place(at))
                        .hint("give the column another name"));
                }
                columns.text.push(self.since(start));
            }
            if self.parser.consume_token(&Token::RParen) {
                if let Some((time, at)) = time {
                    require_time(&time, &fields).map_err(|error| error.at(self.text.place(at)))?;
                }
                return Ok(columns);
            }
            self.parser.expect_token(&Token::Comma).map_err(|error| self.syntax(&error))?;
        }
    }

    /// Whether the word stands in what comes up to the next comma: a column of the name `watermark` has none.
    fn has_delay(&self) -> bool {
        let mut depth = 0_usize;
        for index in 1.. {
            match &self.parser.peek_nth_token_ref(index).token {
                Token::LParen => depth += 1,
                Token::RParen if depth > 0 => depth -= 1,
                Token::RParen | Token::Comma if depth == 0 => return false,
                Token::EOF => return false,
                Token::Word(word)
                    if word.quote_style.is_none() && word.value.eq_ignore_ascii_case("delay") =>
                {
                    return true;
                }
                _ => {}
            }
        }
        false
    }

    /// The text from a place to the last token that was taken.
    fn since(&self, start: Location) -> String {
        let end = match self.parser.index().checked_sub(1) {
            Some(last) => self.parser.token_at(last).span.end,
            None => start,
        };
        self.text.slice(start, end)
    }

    /// `WATERMARK expr [AS column] DELAY OF interval [IDLE AFTER interval]`, to be read again with its query. Gives the time, and
    /// where it stands.
    fn watermark_clause(&mut self) -> Result<(Expr, Span)> {
        self.word("watermark");
        let at = self.parser.peek_token_ref().span;
        let time = self.parser.parse_expr().map_err(|error| self.syntax(&error))?;
        if self.parser.parse_keyword(Keyword::AS) {
            self.parser.parse_identifier().map_err(|error| self.syntax(&error))?;
        }
        if !self.word("delay") || !self.word("of") {
            return Err(self.unexpected("DELAY OF"));
        }
        self.parser.parse_expr().map_err(|error| self.syntax(&error))?;
        if self.word("idle") {
            if !self.word("after") {
                return Err(self.unexpected("AFTER"));
            }
            self.parser.parse_expr().map_err(|error| self.syntax(&error))?;
        }
        Ok((time, at))
    }

    /// A call such as `read_kinesis(streamName => 'clicks')`, without its last parenthesis.
    fn source_function(&mut self) -> Result<String> {
        let start = self.parser.peek_token_ref().span.start;
        self.parser.parse_identifier().map_err(|error| self.syntax(&error))?;
        if self.parser.peek_token_ref().token != Token::LParen {
            return Err(self.unexpected("a call such as read_kinesis(streamName => 'clicks')"));
        }
        let mut depth = 0_usize;
        loop {
            match self.parser.next_token().token {
                Token::LParen => depth += 1,
                Token::RParen if depth == 1 => break,
                Token::RParen => depth -= 1,
                Token::EOF => return Err(self.unexpected(")")),
                _ => {}
            }
        }
        let call = self.since(start);
        Ok(call.strip_suffix(')').unwrap_or(&call).to_owned())
    }

    /// The table of `LATE ROWS INTO table` behind a query, when it says so.
    pub(crate) fn late_table(&self) -> Result<Option<(TableName, Span)>> {
        let Some(late) = &self.words.late else { return Ok(None) };
        let names: Option<Vec<String>> = late.into.as_ref().map(|parts| parts.iter().map(normal).collect());
        let table = match names.as_deref() {
            None => return Ok(None),
            Some([table]) => TableName::new(self.default_schema, table),
            Some([schema, table]) => TableName::new(schema, table),
            Some(_) => return Err(self.wrong(late.span, "a table's name has at most two parts".to_owned())),
        };
        Ok(Some((table, late.span)))
    }

    /// A length of time, in microseconds.
    pub(crate) fn interval(&mut self) -> Result<i64> {
        let at = self.parser.peek_token_ref().span;
        let interval = self.parser.parse_expr().map_err(|error| self.syntax(&error))?;
        catchment_sql::interval_micros(&interval).map_err(|error| error.at(self.text.place(at)))
    }

    /// A length of time in whole hours.
    fn hours(&mut self) -> Result<u32> {
        let at = self.parser.peek_token_ref().span;
        let hours = self.interval()? / 3_600_000_000;
        u32::try_from(hours).ok().filter(|hours| (24..=8_760).contains(hours)).ok_or_else(|| {
            self.wrong(at, format!("records are kept for between 24 hours and 365 days, not {hours} hours"))
        })
    }

    /// `[ON VIOLATION QUARANTINE]`
    fn violation(&mut self) -> Result<()> {
        if !self.parser.parse_keyword(Keyword::ON) {
            return Ok(());
        }
        if !self.word("violation") {
            return Err(self.unexpected("VIOLATION"));
        }
        match self.word("quarantine") {
            true => Ok(()),
            false => Err(self.not_yet("ON VIOLATION other than QUARANTINE for a stream")),
        }
    }
}

/// Makes sure that the time of a watermark is one of the declared columns; an expression is looked at with its types later.
fn require_time(time: &Expr, fields: &[Field]) -> Result<()> {
    require_columns(time, &fields.iter().map(|field| field.name().clone()).collect())?;
    let Expr::Identifier(name) = time else { return Ok(()) };
    let name = normal(name);
    match fields.iter().find(|field| *field.name() == name).map(Field::data_type) {
        Some(DataType::Timestamp(..) | DataType::Date32) | None => Ok(()),
        Some(_) => Err(Error::new(
            Code::SQL_TYPE,
            format!("the time of a watermark is a TIMESTAMP, which column \"{name}\" is not"),
        )
        .hint(format!("declare \"{name}\" as TIMESTAMP, or name another column"))),
    }
}

/// The call of the source function that reads a stream.
fn call(source: Option<&str>, name: &str, columns: &Columns, schema_file: Option<&str>) -> String {
    let quoted = |text: &str| text.replace('\'', "''");
    let mut call = match source {
        Some(source) => source.trim_end().to_owned(),
        None => format!("read_stream('{}'", quoted(name)),
    };
    let mut option = |name: &str, value: &str| {
        let comma = if call.ends_with('(') { "" } else { ", " };
        call.push_str(&format!("{comma}{name} => '{}'", quoted(value)));
    };
    option("schema", &columns.text.join(", "));
    if let Some(file) = schema_file {
        option("jsonSchema", file);
    }
    format!("{call})")
}
