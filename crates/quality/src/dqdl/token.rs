//! Cuts a ruleset into words, strings, numbers and signs.

use catchment_core::{Code, Error, Place, Result};

/// A piece of a ruleset.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    Word(String),
    /// A quoted text, its escapes as they were written.
    Text(String),
    Number(String),
    Variable(String),
    Sign(&'static str),
}

/// A piece and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub(crate) token: Token,
    pub(crate) place: Place,
    /// Whether white space comes before it.
    pub(crate) spaced: bool,
}

/// The longest ruleset, in bytes.
const LONGEST: usize = 1 << 20;

const SIGNS: &[&str] =
    &["!=", ">=", "<=", "=", ">", "<", "[", "]", "{", "}", "(", ")", ",", ":", "+", "-", "*", "/"];

pub(crate) fn tokens(file: &str, text: &str) -> Result<Vec<Located>> {
    let place = |line: usize, column: usize| Place {
        file: file.to_owned(),
        line: line as u64,
        column: column as u64,
        length: 1,
        text: text.lines().nth(line - 1).unwrap_or_default().to_owned(),
    };
    if text.len() > LONGEST {
        return Err(Error::new(Code::RULESET_INVALID, format!("a ruleset is longer than {LONGEST} bytes")));
    }
    let mut found = Vec::new();
    let (mut rest, mut line, mut column, mut spaced) = (text, 1, 1, true);
    while let Some(first) = rest.chars().next() {
        let begin = place_of(line, column);
        let length = match first {
            c if c.is_whitespace() => c.len_utf8(),
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '"' => quoted(rest).ok_or_else(|| {
                Error::new(Code::RULESET_INVALID, "a string has no end").at(place(begin.0, begin.1))
            })?,
            c if c.is_ascii_digit() => {
                let end = |c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_');
                rest.find(end).unwrap_or(rest.len())
            }
            c if c.is_alphabetic() || c == '_' || c == '$' => {
                let end = |c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '$'));
                1 + rest[c.len_utf8()..].find(end).unwrap_or(rest.len() - c.len_utf8())
            }
            _ => SIGNS.iter().find(|sign| rest.starts_with(**sign)).map_or(0, |sign| sign.len()),
        };
        if length == 0 {
            return Err(Error::new(Code::RULESET_INVALID, format!("{first:?} cannot stand here"))
                .at(place(begin.0, begin.1)));
        }
        let piece = &rest[..length];
        let token = match first {
            c if c.is_whitespace() || c == '#' => None,
            '"' => Some(Token::Text(piece[1..length - 1].to_owned())),
            c if c.is_ascii_digit() => {
                // A name cannot begin with a digit, and a number holds nothing else.
                if piece.parse::<f64>().is_err() || piece.contains(['e', 'E']) {
                    return Err(Error::new(
                        Code::RULESET_INVALID,
                        format!("{piece} is no number and no name"),
                    )
                    .at(place(begin.0, begin.1)));
                }
                Some(Token::Number(piece.to_owned()))
            }
            '$' => Some(Token::Variable(piece[1..].to_owned())),
            c if c.is_alphabetic() || c == '_' => Some(Token::Word(piece.to_owned())),
            _ => SIGNS.iter().find(|sign| **sign == piece).map(|sign| Token::Sign(sign)),
        };
        match token {
            None => spaced = true,
            Some(token) => {
                let mut at = place(begin.0, begin.1);
                at.length = piece.chars().count() as u64;
                found.push(Located { token, place: at, spaced: std::mem::replace(&mut spaced, false) });
            }
        }
        for c in piece.chars() {
            (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        rest = &rest[length..];
    }
    Ok(found)
}

fn place_of(line: usize, column: usize) -> (usize, usize) {
    (line, column)
}

/// The length of a string with both of its quotation marks; a backslash hides what follows it.
fn quoted(text: &str) -> Option<usize> {
    let mut hidden = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if hidden => hidden = false,
            '\\' => hidden = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}
