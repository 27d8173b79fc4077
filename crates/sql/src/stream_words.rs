//! Words of streams that no parser knows, taken out of the tokens.

use std::collections::HashSet;

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

/// The call that takes the place of `PARTITION BY` within a window's table function.
pub(crate) const KEYS: &str = "__window_keys";

/// Turns `SESSION(TABLE t PARTITION BY a, b, DESCRIPTOR(ts), gap)`, as Flink has it, into a call that has the keys as an argument:
/// `SESSION(TABLE t, __window_keys(a, b), DESCRIPTOR(ts), gap)`.
pub(crate) fn take_window_keys(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut index = 0;
    while index < tokens.len() {
        let Some((partition, descriptor)) = window_keys(&tokens, index) else {
            kept.push(tokens[index].clone());
            index += 1;
            continue;
        };
        let at = tokens[partition].span;
        let added = |token| TokenWithSpan { token, span: at };
        kept.extend_from_slice(&tokens[index..partition]);
        kept.extend([Token::Comma, Token::make_word(KEYS, None), Token::LParen].map(added));
        kept.extend_from_slice(&tokens[partition + 2..descriptor - 1]);
        kept.push(added(Token::RParen));
        kept.push(tokens[descriptor - 1].clone());
        index = descriptor;
    }
    kept
}

/// Where `PARTITION` and `DESCRIPTOR` stand in the table function that begins at `index`.
fn window_keys(tokens: &[TokenWithSpan], index: usize) -> Option<(usize, usize)> {
    let [function, open, ..] = &tokens[index..] else { return None };
    let is_window = matches!(&function.token, Token::Word(word)
        if word.quote_style.is_none() && ["session", "stagger"].contains(&word.value.to_lowercase().as_str()));
    if !is_window || open.token != Token::LParen {
        return None;
    }
    let close = matching_parenthesis(tokens, index + 1)?;
    let mut depth = 0_usize;
    let mut partition = None;
    for at in index + 2..close {
        match &tokens[at].token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.checked_sub(1)?,
            _ if depth > 0 => {}
            _ if is_keyword(&tokens[at], Keyword::PARTITION) && is_keyword(&tokens[at + 1], Keyword::BY) => {
                partition = partition.or(Some(at));
            }
            Token::Word(word)
                if word.value.eq_ignore_ascii_case("descriptor") && tokens[at - 1].token == Token::Comma =>
            {
                return partition.filter(|partition| partition + 3 < at).map(|partition| (partition, at));
            }
            _ => {}
        }
    }
    None
}

/// Takes words out of the tokens and remembers where the relations begin that are read as streams:
/// `STREAM t`, `STREAM(t)` and `STREAM f(...)` after FROM, JOIN and a comma between relations; `SELECT STREAM`, whose first relation is one; and
/// `TABLE(` around `TUMBLE(TABLE t, ...)`, with the `TABLE` in it.
pub(crate) fn take_stream_words(tokens: Vec<TokenWithSpan>) -> (Vec<TokenWithSpan>, HashSet<Location>) {
    let mut streams = HashSet::new();
    let mut kept: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    // Tokens to be left out, by index.
    let mut out: HashSet<usize> = HashSet::new();
    let mut clauses = Clauses::default();
    for index in 0..tokens.len() {
        clauses.pass(&tokens[..index]);
        if out.contains(&index) {
            continue;
        }
        let follows = |keyword| kept.last().is_some_and(|last| is_keyword(last, keyword));
        if selects_stream(&tokens, index) {
            if let Some(first) = first_relation(&tokens, index + 1)
                && !is_keyword(&tokens[first], Keyword::STREAM)
            {
                streams.insert(tokens[beyond_table(&tokens, first)].span.start);
            }
            continue;
        }
        let is_listed = clauses.lists && kept.last().is_some_and(|last| last.token == Token::Comma);
        if !follows(Keyword::FROM) && !follows(Keyword::JOIN) && !is_listed {
            kept.push(tokens[index].clone());
            continue;
        }
        let mut relation = index;
        if is_keyword(&tokens[index], Keyword::STREAM)
            && let Some(next) = tokens.get(index + 1)
        {
            if next.token == Token::LParen {
                if let Some(close) = matching_parenthesis(&tokens, index + 1) {
                    out.extend([index, index + 1, close]);
                    relation = index + 2;
                }
            } else if let Token::Word(word) = &next.token
                && (word.keyword == Keyword::NoKeyword
                    || word.quote_style.is_some()
                    || names_relation(&tokens, index + 1))
            {
                out.insert(index);
                relation = index + 1;
            }
        }
        let begins = beyond_table(&tokens, relation);
        if relation > index {
            streams.extend(tokens.get(begins).map(|token| token.span.start));
        }
        if begins > relation {
            out.extend([relation, relation + 1]);
            out.extend(matching_parenthesis(&tokens, relation + 1));
        }
        // The word before a table function's relation: TABLE, or STREAM.
        if let [_, open, word, name, ..] = &tokens[begins.min(tokens.len())..]
            && open.token == Token::LParen
            && matches!(&name.token, Token::Word(_))
            && (is_keyword(word, Keyword::TABLE) || is_keyword(word, Keyword::STREAM))
        {
            out.insert(begins + 2);
            if is_keyword(word, Keyword::STREAM) {
                streams.insert(tokens[begins].span.start);
            }
        }
        if !out.contains(&index) {
            kept.push(tokens[index].clone());
        }
    }
    (kept, streams)
}

/// Whether the token is the word of `SELECT STREAM`.
pub(crate) fn selects_stream(tokens: &[TokenWithSpan], index: usize) -> bool {
    index > 0
        && is_keyword(&tokens[index - 1], Keyword::SELECT)
        && is_keyword(&tokens[index], Keyword::STREAM)
        && begins_results(tokens, index + 1)
}

/// Tells commas between relations from others.
#[derive(Default)]
struct Clauses {
    /// Whether the clause is a list of relations, for each parenthesis that encloses what comes next.
    enclosing: Vec<bool>,
    /// The same of the innermost clause.
    lists: bool,
}

impl Clauses {
    /// Takes note of the last of the tokens that were passed.
    fn pass(&mut self, passed: &[TokenWithSpan]) {
        let [before @ .., last] = passed else { return };
        match &last.token {
            Token::LParen => self.enclosing.push(std::mem::take(&mut self.lists)),
            Token::RParen => self.lists = self.enclosing.pop().unwrap_or_default(),
            Token::SemiColon => *self = Self::default(),
            Token::Word(word) if word.quote_style.is_none() => match word.keyword {
                // IS DISTINCT FROM has no relation.
                Keyword::FROM => {
                    let is_compared = before.last().is_some_and(|token| is_keyword(token, Keyword::DISTINCT));
                    self.lists |= !is_compared;
                }
                Keyword::SELECT
                | Keyword::WHERE
                | Keyword::GROUP
                | Keyword::HAVING
                | Keyword::QUALIFY
                | Keyword::WINDOW
                | Keyword::ORDER
                | Keyword::LIMIT
                | Keyword::UNION
                | Keyword::EXCEPT
                | Keyword::INTERSECT => self.lists = false,
                _ => {}
            },
            _ => {}
        }
    }
}

/// Whether what stands behind `SELECT STREAM` is the first result, so that the word is not one itself.
fn begins_results(tokens: &[TokenWithSpan], index: usize) -> bool {
    match tokens.get(index).map(|token| &token.token) {
        Some(Token::Word(word)) => {
            word.quote_style.is_some() || !matches!(word.keyword, Keyword::FROM | Keyword::AS | Keyword::IS)
        }
        Some(Token::Mul) => tokens.get(index + 1).is_some_and(|next| {
            next.token == Token::Comma
                || [Keyword::FROM, Keyword::EXCLUDE, Keyword::EXCEPT, Keyword::REPLACE]
                    .iter()
                    .any(|word| is_keyword(next, *word))
        }),
        Some(Token::Number(..) | Token::SingleQuotedString(_) | Token::LParen) => true,
        _ => false,
    }
}

/// The first relation of the select whose results begin at `start`.
fn first_relation(tokens: &[TokenWithSpan], start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(start) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.checked_sub(1)?,
            // IS DISTINCT FROM has no relation.
            _ if depth == 0
                && is_keyword(token, Keyword::FROM)
                && !is_keyword(&tokens[index - 1], Keyword::DISTINCT) =>
            {
                return (index + 1 < tokens.len()).then_some(index + 1);
            }
            _ => {}
        }
    }
    None
}

/// Behind `TABLE (` when a window's table function stands there, otherwise where it was.
fn beyond_table(tokens: &[TokenWithSpan], index: usize) -> usize {
    let rest = &tokens[index.min(tokens.len())..];
    match rest {
        [table, open, function, inner, ..]
            if is_keyword(table, Keyword::TABLE)
                && open.token == Token::LParen
                && matches!(&function.token, Token::Word(word)
                    if ["tumble", "hop", "cumulate", "session", "stagger"].contains(&word.value.to_lowercase().as_str()))
                && inner.token == Token::LParen =>
        {
            index + 2
        }
        _ => index,
    }
}

/// Whether a keyword at `index` is used as a relation's name: it is followed by `.` or `(`, or is a word like RAW.
fn names_relation(tokens: &[TokenWithSpan], index: usize) -> bool {
    use datafusion::sql::sqlparser::keywords::RESERVED_FOR_TABLE_ALIAS;
    let qualified =
        tokens.get(index + 1).is_some_and(|next| matches!(next.token, Token::Period | Token::LParen));
    qualified
        || matches!(&tokens[index].token, Token::Word(word)
            if word.keyword != Keyword::AS && !RESERVED_FOR_TABLE_ALIAS.contains(&word.keyword))
}

fn is_keyword(token: &TokenWithSpan, keyword: Keyword) -> bool {
    matches!(&token.token, Token::Word(word) if word.keyword == keyword && word.quote_style.is_none())
}

fn matching_parenthesis(tokens: &[TokenWithSpan], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(index);
                }
            }
            _ => {}
        }
    }
    None
}
