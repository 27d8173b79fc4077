//! SQL text with the place it comes from, its tokens, and errors that point into it.

use catchment_core::{Code, Error, Place, Result};
use datafusion::common::{DataFusionError, SchemaError, Span as PlanSpan};
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};

use crate::dialect::CatchmentDialect;

/// The longest SQL text that is read, in bytes.
const LONGEST: usize = 4 << 20;

/// One SQL text, usually a file.
#[derive(Debug, Clone)]
pub struct SqlText {
    file: String,
    text: String,
    lines: Vec<String>,
    /// Where parameters were put in, so that places point into the file as the user wrote it.
    shifts: Vec<Shift>,
}

/// A parameter's value of `written` characters stands where the file has `original`.
#[derive(Debug, Clone, Copy)]
struct Shift {
    line: u64,
    column: u64,
    original: u64,
    written: u64,
}

impl SqlText {
    /// Takes a text as it is.
    #[must_use]
    pub fn new(file: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let lines = text.lines().map(str::to_owned).collect();
        Self { file: file.into(), text, lines, shifts: Vec::new() }
    }

    /// Takes a text and puts values in for its `${name}`s.
    ///
    /// # Errors
    /// Returns [`Code::PARAMETER_UNKNOWN`] for each name without a value.
    pub fn with_parameters(
        file: impl Into<String>,
        text: &str,
        value_of: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let mut source = Self::new(file, text);
        let mut errors = Vec::new();
        let mut written = String::with_capacity(text.len());
        for (index, line) in text.split_inclusive('\n').enumerate() {
            let number = index as u64 + 1;
            let mut rest = line;
            let mut column = 1;
            while let Some((before, name, after)) = next_parameter(rest) {
                let original = name.chars().count() as u64 + 3;
                written.push_str(before);
                column += before.chars().count() as u64;
                match value_of(name) {
                    Some(value) if !value.contains('\n') => {
                        let length = value.chars().count() as u64;
                        source.shifts.push(Shift { line: number, column, original, written: length });
                        written.push_str(&value);
                        column += length;
                    }
                    found => {
                        let original_column = source.original_column(number, column);
                        let what =
                            if found.is_some() { "has a line break in its value" } else { "has no value" };
                        errors.push(
                            Error::new(Code::PARAMETER_UNKNOWN, format!("parameter \"{name}\" {what}"))
                                .at(source.place_at(number, original_column, original))
                                .hint("set it under [parameters] in catchment.toml, or with --set parameters.NAME=VALUE"),
                        );
                        column += original;
                        column_pad(&mut written, original);
                    }
                }
                rest = after;
            }
            written.push_str(rest);
        }
        Error::join(errors)?;
        source.text = written;
        Ok(source)
    }

    /// The name of the file.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The text with parameters put in.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A part of the text; places in it are still those of the whole.
    #[must_use]
    pub fn part(&self, start: Location, end: Location) -> Self {
        let (from, to) = (self.offset(start), self.offset(end));
        let blank = |text: &str| text.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect::<String>();
        let before = self.text.get(..from).unwrap_or_default();
        let kept = self.text.get(from..to.max(from)).unwrap_or_default();
        Self { text: format!("{}{kept}", blank(before)), ..self.clone() }
    }

    /// The text with its first `words` words replaced by `head`, as far as it fits in their place.
    ///
    /// # Errors
    /// As [`SqlText::tokens`].
    pub fn with_head(&self, words: usize, head: &str) -> Result<Self> {
        let tokens = self.tokens()?;
        let (Some(first), Some(next)) = (tokens.first(), tokens.get(words)) else { return Ok(self.clone()) };
        let (from, to) = (self.offset(first.span.start), self.offset(next.span.start));
        let mut text = self.text.get(..from).unwrap_or_default().to_owned();
        if head.is_empty() {
            text.extend((from..to).map(|_| ' '));
        } else {
            text.push_str(head);
            text.push(' ');
        }
        text.push_str(self.text.get(to..).unwrap_or_default());
        Ok(Self { text, ..self.clone() })
    }

    /// Whether it begins with these words.
    ///
    /// # Errors
    /// As [`SqlText::tokens`].
    pub fn begins_with(&self, words: &[&str]) -> Result<bool> {
        let tokens = self.tokens()?;
        let is_word = |token: &TokenWithSpan, word: &str| matches!(&token.token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word));
        Ok(tokens.len() >= words.len() && tokens.iter().zip(words).all(|(token, word)| is_word(token, word)))
    }

    /// The text between two places of the parsed text, lines kept.
    #[must_use]
    pub fn slice(&self, start: Location, end: Location) -> String {
        let (from, to) = (self.offset(start), self.offset(end));
        self.text.get(from..to.max(from)).unwrap_or_default().trim_end().to_owned()
    }

    fn offset(&self, at: Location) -> usize {
        let mut offset = 0;
        for (index, line) in self.text.split_inclusive('\n').enumerate() {
            if index as u64 + 1 == at.line {
                let column = usize::try_from(at.column.saturating_sub(1)).unwrap_or(0);
                return offset + line.char_indices().nth(column).map_or(line.len(), |(at, _)| at);
            }
            offset += line.len();
        }
        offset
    }

    /// The tokens, comments and white space left out, with an end token that has a place.
    ///
    /// # Errors
    /// Returns [`Code::SQL_SYNTAX`] for text that has no tokens, such as an open quote.
    pub fn tokens(&self) -> Result<Vec<TokenWithSpan>> {
        if self.text.len() > LONGEST {
            return Err(Error::new(
                Code::SQL_SYNTAX,
                format!("{} is longer than {LONGEST} bytes", self.file),
            ));
        }
        let tokens =
            Tokenizer::new(&CatchmentDialect, &self.text).tokenize_with_location().map_err(|error| {
                Error::new(Code::SQL_SYNTAX, lowercase_first(&error.message))
                    .at(self.place(Span::new(error.location, error.location)))
            })?;
        let end = tokens.last().map_or(Location::new(1, 1), |token| token.span.end);
        let mut kept: Vec<_> = tokens
            .into_iter()
            .filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF))
            .collect();
        kept.push(TokenWithSpan::new(Token::EOF, Span::new(end, end)));
        Ok(kept)
    }

    /// The place of a span of the parsed text, in the file as the user wrote it.
    #[must_use]
    pub fn place(&self, span: Span) -> Place {
        let (line, column) = (span.start.line.max(1), span.start.column.max(1));
        let length = if span.end.line == span.start.line {
            span.end.column.saturating_sub(span.start.column)
        } else {
            1
        };
        self.place_at(line, self.original_column(line, column), length.max(1))
    }

    fn place_at(&self, line: u64, column: u64, length: u64) -> Place {
        let index = usize::try_from(line.saturating_sub(1)).unwrap_or(0);
        let text = self.lines.get(index).cloned().unwrap_or_default();
        Place { file: self.file.clone(), line, column, length, text }
    }

    fn original_column(&self, line: u64, column: u64) -> u64 {
        let mut result = column;
        for shift in self.shifts.iter().filter(|shift| shift.line == line && shift.column <= column) {
            if column < shift.column + shift.written {
                // Inside the value: the place is the parameter itself.
                return result - (column - shift.column);
            }
            result = result + shift.original - shift.written;
        }
        result
    }

    /// Points an error of the parser into this text.
    #[must_use]
    pub fn syntax_error(&self, error: &ParserError, fallback: Span) -> Error {
        let text = match error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.clone(),
            ParserError::RecursionLimitExceeded => "the statement is nested too deeply".to_owned(),
        };
        let (message, location) = split_location(&text);
        let span = match location {
            Some(at) if at != fallback.start => Span::new(at, at),
            _ => fallback,
        };
        Error::new(Code::SQL_SYNTAX, lowercase_first(&message)).at(self.place(span))
    }

    /// Points errors of the planner into this text; where the planner does not know, at `fallback`.
    #[must_use]
    pub fn plan_error(&self, error: &DataFusionError, fallback: Span) -> Error {
        let errors = error.iter().map(|each| self.one_plan_error(each, fallback));
        match Error::join(errors) {
            Err(joined) => joined,
            Ok(()) => self.one_plan_error(error, fallback),
        }
    }

    fn one_plan_error(&self, error: &DataFusionError, fallback: Span) -> Error {
        let root = error.find_root();
        let found = error.diagnostic().and_then(|diagnostic| diagnostic.span).map(span_of);
        let mut hint = None;
        let (code, message, span) = match root {
            DataFusionError::SQL(error, _) => return self.syntax_error(error, fallback),
            DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
                SchemaError::FieldNotFound { field, valid_fields } => {
                    let names = valid_fields.iter().map(|valid| valid.name.as_str());
                    // The engine's own are nobody's to name.
                    let names: Vec<&str> = names.filter(|name| !name.starts_with("__window")).collect();
                    hint = nearest(&field.name, &names)
                        .map(|near| format!("did you mean \"{near}\"?"))
                        .or_else(|| (!names.is_empty()).then(|| format!("columns: {}", names.join(", "))));
                    let span = field.spans().first().map(span_of);
                    (Code::COLUMN_UNKNOWN, format!("no column \"{}\"", field.flat_name()), span)
                }
                SchemaError::AmbiguousReference { field } => {
                    let span = field.spans().first().map(span_of);
                    hint = ["window_start", "window_end", "window_time"].contains(&field.name.as_str()).then(|| {
                        "a window's table function adds this column: name the relation's own otherwise before".to_owned()
                    });
                    (Code::COLUMN_UNKNOWN, format!("column \"{}\" is ambiguous", field.flat_name()), span)
                }
                other => (Code::SQL_PLAN, other.to_string(), None),
            },
            DataFusionError::NotImplemented(text) => (Code::NOT_SUPPORTED, lowercase_first(text), None),
            DataFusionError::Plan(text) if is_type_error(text) => (Code::SQL_TYPE, short(text), None),
            DataFusionError::Plan(text) => (Code::SQL_PLAN, short(text), None),
            other => {
                let text = other.strip_backtrace();
                (if is_type_error(&text) { Code::SQL_TYPE } else { Code::SQL_PLAN }, short(&text), None)
            }
        };
        let error = Error::new(code, message).at(self.place(found.or(span).unwrap_or(fallback)));
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

fn is_type_error(text: &str) -> bool {
    ["coerce", "Cannot cast", "type", "Cast error"].iter().any(|word| text.contains(word))
}

fn short(text: &str) -> String {
    // What a function says of its arguments stands within what the planner says of the function.
    let own = text.split_once("user-defined coercion failed with: Error during planning: ");
    let text = own.map_or(text, |(_, own)| own.split(" No function matches").next().unwrap_or(own));
    // The planner adds lists of candidate signatures after the first line.
    lowercase_first(text.lines().next().unwrap_or(text).trim_end_matches('.'))
}

fn span_of(span: PlanSpan) -> Span {
    Span::new(
        Location::new(span.start.line, span.start.column),
        Location::new(span.end.line, span.end.column),
    )
}

/// The first `${name}` of a line: what stands before it, the name, what follows.
fn next_parameter(line: &str) -> Option<(&str, &str, &str)> {
    let start = line.find("${")?;
    let end = start + line[start..].find('}')?;
    Some((&line[..start], &line[start + 2..end], &line[end + 1..]))
}

fn column_pad(text: &mut String, length: u64) {
    text.extend((0..length).map(|_| '_'));
}

/// Splits ` at Line: 3, Column: 7` off a message of the parser.
fn split_location(text: &str) -> (String, Option<Location>) {
    let Some(start) = text.rfind(" at Line: ") else { return (text.to_owned(), None) };
    let numbers = &text[start + " at Line: ".len()..];
    let parsed = numbers.split_once(", Column: ").and_then(|(line, column)| {
        Some(Location::new(line.trim().parse().ok()?, column.trim().parse().ok()?))
    });
    (text[..start].to_owned(), parsed)
}

fn lowercase_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        // A word in capitals, such as SELECT, keeps them.
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(std::iter::once(second)).chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

/// The name in `names` closest to `wanted`, if one is close enough to be a slip.
#[must_use]
pub fn nearest<'a>(wanted: &str, names: &[&'a str]) -> Option<&'a str> {
    let best = names
        .iter()
        .min_by_key(|name| datafusion::common::utils::datafusion_strsim::levenshtein(wanted, name))?;
    let distance = datafusion::common::utils::datafusion_strsim::levenshtein(wanted, best);
    (distance <= (wanted.chars().count() / 3).max(1)).then_some(best)
}

#[cfg(test)]
mod tests {
    use catchment_core::Code;
    use datafusion::sql::sqlparser::tokenizer::{Location, Span};

    use super::{SqlText, nearest};

    fn at(line: u64, column: u64) -> Span {
        Span::new(Location::new(line, column), Location::new(line, column + 1))
    }

    #[test]
    fn places_point_into_the_file_as_it_was_written() {
        let text =
            SqlText::with_parameters("a.sql", "SELECT 1\nFROM '${dir}/x' y", |_| Some("/long/path".into()))
                .unwrap();
        assert_eq!(text.text(), "SELECT 1\nFROM '/long/path/x' y");
        assert_eq!(text.place(at(2, 20)).column, 16);
        assert_eq!(text.place(at(2, 10)).column, 7);
        assert_eq!(text.place(at(2, 1)).column, 1);
        assert_eq!(text.place(at(2, 1)).text, "FROM '${dir}/x' y");
    }

    #[test]
    fn each_parameter_without_a_value_is_an_error_with_its_place() {
        let error = SqlText::with_parameters("a.sql", "${a} ok ${b}", |_| None).unwrap_err();
        let columns: Vec<_> = error.each().map(|e| (e.code(), e.place().unwrap().column)).collect();
        assert_eq!(columns, [(Code::PARAMETER_UNKNOWN, 1), (Code::PARAMETER_UNKNOWN, 9)]);
    }

    #[test]
    fn an_open_quote_is_placed() {
        let error = SqlText::new("a.sql", "SELECT 1;\nSELECT 'x").tokens().unwrap_err();
        assert_eq!(error.place().unwrap().line, 2);
    }

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        assert_eq!(nearest("flight", &["flights", "planes"]), Some("flights"));
        assert_eq!(nearest("weather", &["flights", "planes"]), None);
    }
}
