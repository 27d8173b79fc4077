//! `WATERMARK expr [AS column] DELAY OF interval [IDLE AFTER interval]` behind a relation.

use std::collections::HashMap;

use catchment_core::{Code, Error, Result};
use datafusion::sql::sqlparser::ast::{Expr, Ident, TableFactor};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan};

use super::{interval, rewrite};
use crate::dialect::CatchmentDialect;
use crate::text::SqlText;

/// How far behind its newest event a stream's time is.
#[derive(Debug, Clone, PartialEq)]
pub struct Watermark {
    /// The time of an event.
    pub time: Expr,
    /// The name that the expression has as a column.
    pub column: Option<Ident>,
    /// How late an event may come, in microseconds.
    pub delay: i64,
    /// After how many microseconds without an event a partition holds nothing back.
    pub idle: Option<i64>,
    /// Whether it was said where the relation was declared, and not where it is read.
    pub declared: bool,
    /// Whether it was said of a view, so that its time is over the view's columns.
    pub of_view: bool,
    /// Where the clause stands.
    pub span: Span,
}

/// Takes the watermark clauses out of the tokens, by where the relations before them begin.
///
/// # Errors
/// Returns [`Code::SQL_SYNTAX`] for a clause that is not one.
pub(crate) fn take_watermarks(
    tokens: &mut Vec<TokenWithSpan>,
    text: &SqlText,
) -> Result<HashMap<Location, Watermark>> {
    let mut found = HashMap::new();
    let mut index = 0;
    while index < tokens.len() {
        if is_word(&tokens[index], "watermark")
            && index > 0
            && ends_relation(&tokens[index - 1])
            && let Some(end) = clause_end(tokens, index)
            && let Some(relation) = relation_before(tokens, index)
        {
            let clause: Vec<TokenWithSpan> = tokens.drain(index..end).collect();
            let watermark = parse(&clause).map_err(|error| error.at(text.place(clause[0].span)))?;
            found.insert(relation, watermark);
        }
        index += 1;
    }
    Ok(found)
}

/// Where late rows go: behind the query of a flow with windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateRows {
    /// The parts of the table's name; `None` for `DROP`.
    pub into: Option<Vec<Ident>>,
    /// Where the clause stands.
    pub span: Span,
}

/// Takes `LATE ROWS {DROP | INTO table}` out of the tokens.
///
/// # Errors
/// Returns [`Code::SQL_SYNTAX`] for a clause that says neither.
pub(crate) fn take_late_rows(tokens: &mut Vec<TokenWithSpan>, text: &SqlText) -> Result<Option<LateRows>> {
    let found = tokens.windows(3).position(|words| {
        is_word(&words[0], "late")
            && is_word(&words[1], "rows")
            && (is_word(&words[2], "drop") || is_word(&words[2], "into"))
    });
    let Some(start) = found else { return Ok(None) };
    let span = tokens[start].span;
    let (mut end, mut into) = (start + 3, None);
    if is_word(&tokens[start + 2], "into") {
        let mut parts = Vec::new();
        while let Some(TokenWithSpan { token: Token::Word(word), span }) = tokens.get(end) {
            parts.push(Ident { value: word.value.clone(), quote_style: word.quote_style, span: *span });
            end += 1;
            match tokens.get(end).map(|token| &token.token) {
                Some(Token::Period) => end += 1,
                _ => break,
            }
        }
        if parts.is_empty() {
            let error = Error::new(Code::SQL_SYNTAX, "LATE ROWS INTO names no table");
            return Err(error.at(text.place(span)));
        }
        into = Some(parts);
    }
    if tokens.get(end).is_some_and(|next| !matches!(next.token, Token::EOF | Token::SemiColon)) {
        let error = Error::new(Code::SQL_SYNTAX, "LATE ROWS stands at the end of a statement");
        return Err(error.at(text.place(span)));
    }
    tokens.drain(start..end);
    Ok(Some(LateRows { into, span }))
}

fn is_word(token: &TokenWithSpan, wanted: &str) -> bool {
    matches!(&token.token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(wanted))
}

/// Whether a relation may end with a token: then the word behind it is no name.
fn ends_relation(token: &TokenWithSpan) -> bool {
    const BEFORE_NAMES: &[&str] = &[
        "as", "select", "where", "and", "or", "not", "by", "on", "having", "distinct", "case", "when",
        "then", "else", "in", "like", "ilike", "between", "is", "from", "join", "using", "all", "with",
    ];
    match &token.token {
        Token::RParen => true,
        Token::Word(word) => {
            word.quote_style.is_some() || !BEFORE_NAMES.contains(&word.value.to_lowercase().as_str())
        }
        _ => false,
    }
}

/// Where the clause that begins at `start` ends: behind the interval of `DELAY OF` or of `IDLE AFTER`. `None` when
/// there is no `DELAY OF`, and the word names something.
fn clause_end(tokens: &[TokenWithSpan], start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let of = (start + 1..tokens.len()).find(|index| {
        match tokens[*index].token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && is_word(&tokens[*index - 1], "delay") && is_word(&tokens[*index], "of")
    })?;
    let end = interval_end(tokens, of + 1);
    match tokens.get(end).zip(tokens.get(end + 1)) {
        Some((idle, after)) if is_word(idle, "idle") && is_word(after, "after") => {
            Some(interval_end(tokens, end + 2))
        }
        _ => Some(end),
    }
}

/// Behind `INTERVAL value [unit]`.
fn interval_end(tokens: &[TokenWithSpan], start: usize) -> usize {
    let mut end = start;
    if tokens.get(end).is_some_and(|token| is_word(token, "interval")) {
        end += 1;
    }
    let number = matches!(tokens.get(end).map(|token| &token.token), Some(Token::Number(..)));
    end += 1;
    let is_unit = tokens.get(end).is_some_and(|token| {
        matches!(&token.token, Token::Word(word) if word.quote_style.is_none()
            && ["microsecond", "millisecond", "second", "minute", "hour", "day", "week", "month", "year"]
                .contains(&word.value.to_lowercase().trim_end_matches('s')))
    });
    if is_unit || number {
        end += 1;
    }
    end.min(tokens.len())
}

/// Where the relation before a clause begins: behind the last FROM, JOIN or comma outside of parentheses.
fn relation_before(tokens: &[TokenWithSpan], clause: usize) -> Option<Location> {
    let mut depth = 0_usize;
    for index in (0..clause).rev() {
        match &tokens[index].token {
            Token::RParen => depth += 1,
            Token::LParen => depth = depth.checked_sub(1)?,
            // Directly behind a comma it belongs to a list of columns.
            Token::Comma if depth == 0 => return (index + 1 < clause).then(|| tokens[index + 1].span.start),
            Token::Word(word) if depth == 0 && word.quote_style.is_none() => match word.keyword {
                Keyword::FROM | Keyword::JOIN => return Some(tokens[index + 1].span.start),
                Keyword::WHERE | Keyword::GROUP | Keyword::HAVING | Keyword::SELECT | Keyword::ON => {
                    return None;
                }
                _ => {}
            },
            _ => {}
        }
    }
    None
}

fn parse(clause: &[TokenWithSpan]) -> Result<Watermark> {
    let span = clause[0].span;
    let wrong = |error: &dyn std::fmt::Display| {
        Error::new(Code::SQL_SYNTAX, "a watermark cannot be read")
            .because(error.to_string())
            .hint("write WATERMARK column DELAY OF INTERVAL '10' SECONDS [IDLE AFTER INTERVAL '1' MINUTE]")
    };
    let mut parser = Parser::new(&CatchmentDialect).with_tokens_with_locations(clause.to_vec());
    parser.next_token();
    let time = parser.parse_expr().map_err(|error| wrong(&error))?;
    let column = match parser.parse_keyword(Keyword::AS) {
        true => Some(parser.parse_identifier().map_err(|error| wrong(&error))?),
        false => None,
    };
    // DELAY OF, which the search for the clause has found.
    parser.next_token();
    parser.next_token();
    let delay = interval::micros(&parser.parse_expr().map_err(|error| wrong(&error))?)?;
    let mut idle = None;
    if is_word(&parser.peek_token(), "idle") {
        parser.next_token();
        parser.next_token();
        idle = Some(interval::micros(&parser.parse_expr().map_err(|error| wrong(&error))?)?);
    }
    if delay < 0 || idle.is_some_and(|idle| idle <= 0) {
        return Err(wrong(&"a length of time is negative"));
    }
    Ok(Watermark { time, column, delay, idle, declared: false, of_view: false, span })
}

/// Adds the column that a watermark names to its relation.
pub(crate) fn add_column(factor: &TableFactor, watermark: &Watermark, text: &SqlText) -> Result<TableFactor> {
    let Some(column) = &watermark.column else { return Ok(factor.clone()) };
    rewrite::derived(
        &format!("SELECT *, \"$time\" AS {column} FROM \"$from\""),
        factor,
        &watermark.time,
        text,
    )
}
