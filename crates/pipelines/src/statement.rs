//! The statements of pipeline files.

use std::sync::Arc;

use catchment_core::{Code, Error, Result, TableName};
use catchment_ingest::arrow_type;
use catchment_quality::Expectation;
use catchment_sql::{ParsedQuery, RelationWords, SqlText, nearest, parse_query, parser_for};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::sql::sqlparser::ast::{Ident, ObjectNamePart};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Span, Token};

/// A statement of a pipeline file.
#[derive(Debug, Clone)]
pub struct Statement {
    /// The file.
    pub text: Arc<SqlText>,
    /// From its first word to its last.
    pub span: Span,
    /// What it declares.
    pub body: Body,
}

/// What a statement declares.
#[derive(Debug, Clone)]
pub enum Body {
    /// `CREATE STREAMING TABLE` or `CREATE MATERIALIZED VIEW`.
    Dataset(DatasetStatement),
    /// `CREATE [TEMPORARY] VIEW`.
    View(ViewStatement),
    /// `CREATE FLOW`.
    Flow(FlowStatement),
    /// `CREATE STREAM` without a query.
    Stream(StreamStatement),
    /// `CREATE ALERT`.
    Alert(AlertStatement),
}

/// The kinds of datasets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatasetKind {
    /// Each input row once.
    StreamingTable,
    /// Equal to its query.
    MaterializedView,
    /// The latest row of each key, read by key.
    ServingTable,
}

/// A table that flows keep up to date.
#[derive(Debug, Clone)]
pub struct DatasetStatement {
    /// Which kind.
    pub kind: DatasetKind,
    /// Its name, and where that stands.
    pub name: (TableName, Span),
    /// Declared columns.
    pub columns: Option<SchemaRef>,
    /// What its rows are held to, each with the place of its name.
    pub expectations: Vec<(Expectation, Span)>,
    /// The columns that split its files, and where they stand.
    pub partition_columns: Vec<(String, Span)>,
    /// The columns that `OPTIMIZE` sorts its rows by.
    pub cluster_columns: Vec<(String, Span)>,
    /// A sentence for people.
    pub comment: Option<String>,
    /// Table properties.
    pub properties: Vec<(String, String)>,
    /// Its query; a streaming table may get its rows from `CREATE FLOW` alone.
    pub query: Option<ParsedQuery>,
    /// The table that takes late rows of its query, and where that stands.
    pub late: Option<(TableName, Span)>,
    /// What a serving table is declared with besides.
    pub serving: Option<ServingStatement>,
}

/// A query with a name and no storage.
#[derive(Debug, Clone)]
pub struct ViewStatement {
    /// Its name, and where that stands.
    pub name: (TableName, Span),
    /// Whether it is known only within the project's pipelines.
    pub temporary: bool,
    /// Its query.
    pub query: ParsedQuery,
}

/// Another query that adds rows to a streaming table.
#[derive(Debug, Clone)]
pub struct FlowStatement {
    /// Its name, and where that stands.
    pub name: (String, Span),
    /// The table, and where its name stands.
    pub target: (TableName, Span),
    /// Whether it runs once.
    pub once: bool,
    /// The partitions that its result replaces, as a condition, and where that stands.
    pub replaces: Option<(String, Span)>,
    /// Its query.
    pub query: ParsedQuery,
    /// The table that takes its late rows, and where that stands.
    pub late: Option<(TableName, Span)>,
}

pub(crate) use crate::declare_alert::AlertStatement;
pub(crate) use crate::declare_serving::ServingStatement;
pub(crate) use crate::declare_stream::StreamStatement;

/// Parses all statements of a file. After an error it goes on behind the next semicolon.
///
/// # Errors
/// Returns all syntax errors of the file, each with its place.
pub fn parse_statements(text: &Arc<SqlText>, default_schema: &str) -> (Vec<Statement>, Vec<Error>) {
    let tokens = match text.tokens() {
        Ok(tokens) => tokens,
        Err(error) => return (Vec::new(), vec![error]),
    };
    let (mut statements, mut errors) = (Vec::new(), Vec::new());
    let mut rest = tokens.as_slice();
    while let Some((head, tail)) = next_statement(rest) {
        rest = tail;
        let Some(end) = head.last().map(|token| token.span.end) else { continue };
        let mut tokens = head.to_vec();
        tokens
            .push(datafusion::sql::sqlparser::tokenizer::TokenWithSpan::new(Token::EOF, Span::new(end, end)));
        let start = tokens[0].span.start;
        let (parser, words) = match parser_for(tokens, text) {
            Ok(found) => found,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let mut reader = Reader { parser, words, text, default_schema };
        match reader.statement() {
            Ok(body) => {
                statements.push(Statement { text: Arc::clone(text), span: Span::new(start, end), body })
            }
            Err(error) => errors.push(error),
        }
    }
    (statements, errors)
}

type Tokens = [datafusion::sql::sqlparser::tokenizer::TokenWithSpan];

/// The tokens up to the next semicolon, and those behind it; empty statements are left out.
fn next_statement(tokens: &Tokens) -> Option<(&Tokens, &Tokens)> {
    let mut rest = tokens;
    while rest.first().is_some_and(|token| token.token == Token::SemiColon) {
        rest = &rest[1..];
    }
    if rest.first().is_none_or(|token| token.token == Token::EOF) {
        return None;
    }
    let end = rest
        .iter()
        .position(|token| matches!(token.token, Token::SemiColon | Token::EOF))
        .unwrap_or(rest.len());
    Some((&rest[..end], &rest[end..]))
}

/// Declared columns and expectations.
type Columns = (Option<SchemaRef>, Vec<(Expectation, Span)>);

pub(crate) struct Reader<'a> {
    pub(crate) parser: Parser<'static>,
    pub(crate) words: RelationWords,
    pub(crate) text: &'a Arc<SqlText>,
    pub(crate) default_schema: &'a str,
}

impl Reader<'_> {
    fn statement(&mut self) -> Result<Body> {
        if !self.parser.parse_keyword(Keyword::CREATE) {
            return Err(self.unexpected("CREATE"));
        }
        if self.parser.parse_keyword(Keyword::OR) && !self.word("refresh") && !self.word("replace") {
            return Err(self.unexpected("REFRESH"));
        }
        let refuse_private = self.peek_word("private");
        if refuse_private {
            return Err(self.not_yet("PRIVATE"));
        }
        let temporary =
            self.parser.parse_keyword(Keyword::TEMPORARY) || self.parser.parse_keyword(Keyword::TEMP);
        if temporary && self.word("live") {
            return Err(self.legacy("TEMPORARY LIVE VIEW", "CREATE TEMPORARY VIEW"));
        }
        if self.parser.parse_keyword(Keyword::VIEW) {
            return self.view(temporary);
        }
        if temporary {
            return Err(self.unexpected("VIEW"));
        }
        if self.word("streaming") {
            // The older form has LIVE in between.
            self.word("live");
            self.parser.expect_keyword(Keyword::TABLE).map_err(|error| self.syntax(&error))?;
            return self.dataset(DatasetKind::StreamingTable);
        }
        if self.parser.parse_keyword(Keyword::MATERIALIZED) {
            self.parser.expect_keyword(Keyword::VIEW).map_err(|error| self.syntax(&error))?;
            return self.dataset(DatasetKind::MaterializedView);
        }
        if self.word("live") {
            if self.parser.parse_keyword(Keyword::VIEW) {
                return self.view(true);
            }
            self.parser.expect_keyword(Keyword::TABLE).map_err(|error| self.syntax(&error))?;
            return self.dataset(DatasetKind::MaterializedView);
        }
        if self.word("flow") {
            return self.flow();
        }
        if self.word("stream") {
            return self.stream();
        }
        if self.word("serving") {
            return self.serving_table();
        }
        if self.word("alert") {
            return self.alert();
        }
        for (word, what) in [("model", "CREATE MODEL"), ("table", "CREATE TABLE")] {
            if self.peek_word(word) {
                return Err(self.not_yet(what));
            }
        }
        Err(self.unexpected("STREAMING TABLE, MATERIALIZED VIEW, VIEW, FLOW, STREAM, SERVING TABLE or ALERT"))
    }

    fn view(&mut self, temporary: bool) -> Result<Body> {
        self.if_not_exists()?;
        let name = self.name()?;
        if self.parser.parse_keyword(Keyword::COMMENT) {
            self.parser.parse_literal_string().map_err(|error| self.syntax(&error))?;
        }
        self.parser.expect_keyword(Keyword::AS).map_err(|error| self.syntax(&error))?;
        let query = self.query()?;
        match self.late_table()? {
            Some((_, at)) => {
                Err(Error::new(Code::SQL_SYNTAX, "a view has no late rows").at(self.text.place(at)))
            }
            None => Ok(Body::View(ViewStatement { name, temporary, query })),
        }
    }

    pub(crate) fn dataset(&mut self, kind: DatasetKind) -> Result<Body> {
        self.if_not_exists()?;
        let name = self.name()?;
        self.named_dataset(kind, name)
    }

    /// What follows the name of a dataset.
    pub(crate) fn named_dataset(&mut self, kind: DatasetKind, name: (TableName, Span)) -> Result<Body> {
        let mut dataset = DatasetStatement {
            kind,
            name,
            columns: None,
            expectations: Vec::new(),
            partition_columns: Vec::new(),
            cluster_columns: Vec::new(),
            comment: None,
            properties: Vec::new(),
            query: None,
            late: None,
            serving: None,
        };
        if self.parser.consume_token(&Token::LParen) {
            (dataset.columns, dataset.expectations) = self.columns()?;
        }
        loop {
            if self.parser.parse_keyword(Keyword::COMMENT) {
                dataset.comment =
                    Some(self.parser.parse_literal_string().map_err(|error| self.syntax(&error))?);
            } else if self.parser.parse_keyword(Keyword::PARTITIONED) {
                self.parser.expect_keyword(Keyword::BY).map_err(|error| self.syntax(&error))?;
                dataset.partition_columns = self.name_list()?;
            } else if self.word("cluster") {
                self.parser.expect_keyword(Keyword::BY).map_err(|error| self.syntax(&error))?;
                dataset.cluster_columns = self.name_list()?;
            } else if self.word("tblproperties") {
                dataset.properties = self.properties()?;
            } else if self.parser.parse_keyword(Keyword::USING) {
                if !self.word("delta") {
                    return Err(self.unexpected("DELTA"));
                }
            } else {
                break;
            }
        }
        for word in ["location", "schedule", "trigger", "with", "default", "row"] {
            if self.peek_word(word) {
                return Err(self.not_yet(&word.to_uppercase()));
            }
        }
        if self.peek_word("refresh") {
            self.refresh_policy()?;
        }
        if self.parser.parse_keyword(Keyword::AS) {
            dataset.query = Some(self.query()?);
            dataset.late = self.late_table()?;
        } else if self.peek_word("flow") {
            return Err(self.not_yet("an inline FLOW"));
        } else if kind == DatasetKind::MaterializedView {
            return Err(self.unexpected("AS and a query"));
        } else {
            self.end()?;
        }
        Ok(Body::Dataset(dataset))
    }

    /// `REFRESH POLICY FULL` is what happens; the others are not there yet.
    fn refresh_policy(&mut self) -> Result<()> {
        self.word("refresh");
        if !self.word("policy") {
            return Err(self.unexpected("POLICY"));
        }
        if self.word("full") || self.word("auto") {
            return Ok(());
        }
        Err(self.not_yet("an incremental REFRESH POLICY"))
    }

    fn flow(&mut self) -> Result<Body> {
        let span = self.parser.peek_token_ref().span;
        let name = self.parser.parse_identifier().map_err(|error| self.syntax(&error))?;
        if self.parser.parse_keyword(Keyword::COMMENT) {
            self.parser.parse_literal_string().map_err(|error| self.syntax(&error))?;
        }
        self.parser.expect_keyword(Keyword::AS).map_err(|error| self.syntax(&error))?;
        if self.peek_word("auto") || self.peek_word("apply") {
            return Err(self.not_yet("AUTO CDC"));
        }
        self.parser.expect_keyword(Keyword::INSERT).map_err(|error| self.syntax(&error))?;
        let once = self.word("once");
        self.parser.expect_keyword(Keyword::INTO).map_err(|error| self.syntax(&error))?;
        let target = self.name()?;
        // Columns always go by name; the words are optional, as in open-source Spark.
        if self.parser.parse_keyword(Keyword::BY) && !self.word("name") {
            return Err(self.unexpected("NAME"));
        }
        let replaces = self.replaces()?;
        let query = self.query()?;
        let late = self.late_table()?;
        Ok(Body::Flow(FlowStatement { name: (normal(&name), span), target, once, replaces, query, late }))
    }

    /// `[REPLACE WHERE condition]`
    fn replaces(&mut self) -> Result<Option<(String, Span)>> {
        if !self.word("replace") {
            return Ok(None);
        }
        if !self.parser.parse_keyword(Keyword::WHERE) {
            return Err(self.not_yet("REPLACE USING"));
        }
        let start = self.parser.peek_token_ref().span.start;
        self.parser.parse_expr().map_err(|error| self.syntax(&error))?;
        let end = self.parser.peek_token_ref().span.start;
        let condition = self.text.slice(start, end).trim().to_owned();
        Ok(Some((condition, Span::new(start, end))))
    }

    pub(crate) fn query(&mut self) -> Result<ParsedQuery> {
        let query = parse_query(&mut self.parser, &self.words, self.text)?;
        if self.peek_word("emit") {
            let at = self.text.place(self.parser.peek_token_ref().span);
            return Err(Error::new(
                Code::SQL_SYNTAX,
                "EMIT EVERY stands before AS, and only in a serving table",
            )
            .at(at)
            .hint("write CREATE SERVING TABLE name PRIMARY KEY (columns) EMIT EVERY interval AS query"));
        }
        self.end()?;
        Ok(query)
    }

    /// Columns and expectations up to the closing parenthesis; no columns when only expectations stand there.
    fn columns(&mut self) -> Result<Columns> {
        let mut fields: Vec<Field> = Vec::new();
        let mut expectations: Vec<(Expectation, Span)> = Vec::new();
        loop {
            if self.parser.parse_keyword(Keyword::CONSTRAINT) {
                let (expectation, span) = self.expectation()?;
                if expectations.iter().any(|(known, _)| known.name == expectation.name) {
                    return Err(Error::new(
                        Code::DEFINED_TWICE,
                        format!("expectation \"{}\" is declared twice", expectation.name),
                    )
                    .at(self.text.place(span)));
                }
                expectations.push((expectation, span));
            } else {
                self.column(&mut fields)?;
            }
            if self.parser.consume_token(&Token::RParen) {
                let columns = (!fields.is_empty()).then(|| Arc::new(Schema::new(fields)));
                return Ok((columns, expectations));
            }
            self.parser.expect_token(&Token::Comma).map_err(|error| self.syntax(&error))?;
        }
    }

    pub(crate) fn column(&mut self, fields: &mut Vec<Field>) -> Result<()> {
        let span = self.parser.peek_token_ref().span;
        let name = normal(&self.parser.parse_identifier().map_err(|error| self.syntax(&error))?);
        let at = self.parser.peek_token_ref().span;
        let declared = self.parser.parse_data_type().map_err(|error| self.syntax(&error))?;
        let data_type = arrow_type(&declared).ok_or_else(|| {
            Error::new(Code::SQL_TYPE, format!("tables have no type {declared}")).at(self.text.place(at))
        })?;
        if fields.iter().any(|field| *field.name() == name) {
            return Err(Error::new(Code::DEFINED_TWICE, format!("column \"{name}\" is declared twice"))
                .at(self.text.place(span)));
        }
        fields.push(Field::new(name, data_type, true));
        if self.parser.parse_keyword(Keyword::COMMENT) {
            self.parser.parse_literal_string().map_err(|error| self.syntax(&error))?;
        }
        for word in ["not", "generated", "default", "mask", "primary", "references"] {
            if self.peek_word(word) {
                return Err(self.not_yet(&format!("column property {}", word.to_uppercase())));
            }
        }
        Ok(())
    }

    pub(crate) fn name_list(&mut self) -> Result<Vec<(String, Span)>> {
        self.parser.expect_token(&Token::LParen).map_err(|error| self.syntax(&error))?;
        let mut names = Vec::new();
        loop {
            let span = self.parser.peek_token_ref().span;
            let name = self.parser.parse_identifier().map_err(|error| self.syntax(&error))?;
            names.push((normal(&name), span));
            if self.parser.consume_token(&Token::RParen) {
                return Ok(names);
            }
            self.parser.expect_token(&Token::Comma).map_err(|error| self.syntax(&error))?;
        }
    }

    fn properties(&mut self) -> Result<Vec<(String, String)>> {
        self.parser.expect_token(&Token::LParen).map_err(|error| self.syntax(&error))?;
        let mut pairs = Vec::new();
        loop {
            let key = self.parser.parse_literal_string().map_err(|error| self.syntax(&error))?;
            self.parser.expect_token(&Token::Eq).map_err(|error| self.syntax(&error))?;
            let value = self.parser.next_token();
            let value = match value.token {
                Token::SingleQuotedString(text)
                | Token::DoubleQuotedString(text)
                | Token::Number(text, _) => text,
                Token::Word(word) => word.value,
                other => {
                    return Err(Error::new(Code::SQL_SYNTAX, format!("{other} is not a value"))
                        .at(self.text.place(value.span)));
                }
            };
            pairs.push((key, value));
            if self.parser.consume_token(&Token::RParen) {
                return Ok(pairs);
            }
            self.parser.expect_token(&Token::Comma).map_err(|error| self.syntax(&error))?;
        }
    }

    pub(crate) fn name(&mut self) -> Result<(TableName, Span)> {
        let start = self.parser.peek_token_ref().span;
        let object = self.parser.parse_object_name(false).map_err(|error| self.syntax(&error))?;
        let parts: Vec<String> = object.0.iter().filter_map(ObjectNamePart::as_ident).map(normal).collect();
        let end = object.0.last().and_then(ObjectNamePart::as_ident).map_or(start, |last| last.span);
        let span = Span::new(start.start, end.end);
        let name = match parts.as_slice() {
            [table] => TableName::new(self.default_schema, table),
            [schema, table] => TableName::new(schema, table),
            _ => {
                return Err(Error::new(Code::NAME_INVALID, format!("name {object} has more than two parts"))
                    .at(self.text.place(span)));
            }
        };
        let reserved = name.schema == "system" || name.table.ends_with("__quarantine");
        if !name.is_storable() || reserved {
            let why = if reserved { "is reserved" } else { "may hold only letters, digits, _ and -" };
            return Err(
                Error::new(Code::NAME_INVALID, format!("name \"{name}\" {why}")).at(self.text.place(span))
            );
        }
        Ok((name, span))
    }

    pub(crate) fn if_not_exists(&mut self) -> Result<()> {
        if self.parser.parse_keyword(Keyword::IF) {
            self.parser
                .expect_keywords(&[Keyword::NOT, Keyword::EXISTS])
                .map_err(|error| self.syntax(&error))?;
        }
        Ok(())
    }

    pub(crate) fn end(&mut self) -> Result<()> {
        if self.parser.peek_token_ref().token == Token::EOF {
            Ok(())
        } else {
            Err(self.unexpected("the end of the statement"))
        }
    }

    pub(crate) fn peek_word(&self, word: &str) -> bool {
        matches!(&self.parser.peek_token_ref().token,
            Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
    }

    pub(crate) fn word(&mut self, word: &str) -> bool {
        let found = self.peek_word(word);
        if found {
            self.parser.advance_token();
        }
        found
    }

    pub(crate) fn syntax(&self, error: &ParserError) -> Error {
        self.text.syntax_error(error, self.parser.peek_token_ref().span)
    }

    pub(crate) fn unexpected(&self, wanted: &str) -> Error {
        let found = self.parser.peek_token_ref();
        let error = Error::new(Code::SQL_SYNTAX, format!("expected {wanted}, found {}", found.token))
            .at(self.text.place(found.span));
        const WORDS: &[&str] = &[
            "CREATE",
            "STREAMING",
            "MATERIALIZED",
            "TEMPORARY",
            "FLOW",
            "PARTITIONED",
            "COMMENT",
            "TBLPROPERTIES",
            "REFRESH",
        ];
        match nearest(&found.token.to_string().to_uppercase(), WORDS) {
            Some(near) => error.hint(format!("did you mean {near}?")),
            None => error,
        }
    }

    pub(crate) fn not_yet(&self, what: &str) -> Error {
        let found = self.parser.peek_token_ref();
        Error::new(Code::NOT_SUPPORTED, format!("{what} is not supported yet"))
            .at(self.text.place(found.span))
    }

    fn legacy(&self, old: &str, new: &str) -> Error {
        let found = self.parser.peek_token_ref();
        Error::new(Code::NOT_SUPPORTED, format!("{old} is an old word"))
            .hint(format!("write {new}"))
            .at(self.text.place(found.span))
    }
}

pub(crate) fn normal(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}
