//! Words of streams that no parser knows, taken out of the tokens.

use std::collections::HashSet;

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

/// Takes words out of the tokens and remembers where the relations begin that are read as streams:
/// `STREAM t`, `STREAM(t)` and `STREAM f(...)` after FROM and JOIN; `SELECT STREAM`, whose first relation is one; and
/// `TABLE(` around `TUMBLE(TABLE t, ...)`, with the `TABLE` in it.
pub(crate) fn take_stream_words(tokens: Vec<TokenWithSpan>) -> (Vec<TokenWithSpan>, HashSet<Location>) {
    let mut streams = HashSet::new();
    let mut kept: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    // Tokens to be left out, by index.
    let mut out: HashSet<usize> = HashSet::new();
    for index in 0..tokens.len() {
        if out.contains(&index) {
            continue;
        }
        let follows = |keyword| kept.last().is_some_and(|last| is_keyword(last, keyword));
        if follows(Keyword::SELECT)
            && is_keyword(&tokens[index], Keyword::STREAM)
            && begins_results(&tokens, index + 1)
        {
            if let Some(first) = first_relation(&tokens, index + 1)
                && !is_keyword(&tokens[first], Keyword::STREAM)
            {
                streams.insert(tokens[beyond_table(&tokens, first)].span.start);
            }
            continue;
        }
        // Behind a comma stands a relation only when it is a table function's.
        let is_function = kept.last().is_some_and(|last| last.token == Token::Comma)
            && beyond_table(&tokens, index) > index;
        if !follows(Keyword::FROM) && !follows(Keyword::JOIN) && !is_function {
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
                    if ["tumble", "hop", "cumulate", "session"].contains(&word.value.to_lowercase().as_str()))
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
