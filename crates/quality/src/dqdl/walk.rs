//! Walks along the pieces of a ruleset, and tells where something is wrong.

use std::collections::HashMap;

use catchment_core::{Code, Error, Result};

use crate::dqdl::token::{Located, Token, tokens};

/// A value that a ruleset gives a name.
pub(crate) enum Variable {
    Text(String),
    Texts(Vec<String>),
}

pub(crate) struct Parser {
    pub(crate) tokens: Vec<Located>,
    pub(crate) at: usize,
    pub(crate) variables: HashMap<String, Variable>,
    pub(crate) default_labels: usize,
}

impl Parser {
    pub(crate) fn new(file: &str, text: &str) -> Result<Self> {
        Ok(Self { tokens: tokens(file, text)?, at: 0, variables: HashMap::new(), default_labels: 0 })
    }

    pub(crate) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|token| &token.token)
    }

    pub(crate) fn next(&mut self) -> Option<Token> {
        let token = self.peek().cloned();
        self.at += 1;
        token
    }

    pub(crate) fn peek_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Some(Token::Sign(found)) if *found == sign)
    }

    pub(crate) fn take(&mut self, sign: &str) -> bool {
        let found = self.peek_sign(sign);
        self.at += usize::from(found);
        found
    }

    pub(crate) fn sign(&mut self, sign: &str) -> Result<()> {
        if self.take(sign) { Ok(()) } else { Err(self.wrong(&format!("expected {sign}"))) }
    }

    /// Takes a word of the language, in small letters or capitals.
    pub(crate) fn keyword(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(found))
            if found == word || (found.to_lowercase() == word && found.to_uppercase() == *found));
        self.at += usize::from(found);
        found
    }

    pub(crate) fn word(&mut self, wanted: &str) -> Result<String> {
        match self.peek().cloned() {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            _ => Err(self.wrong(&format!("expected {wanted}"))),
        }
    }

    pub(crate) fn text(&mut self, wanted: &str) -> Result<String> {
        match self.next() {
            Some(Token::Text(text)) => Ok(text),
            Some(Token::Variable(name)) => match self.variables.get(&name) {
                Some(Variable::Text(text)) => Ok(text.clone()),
                _ => Err(self.wrong_before(&format!("no text is named {name:?}"))),
            },
            _ => Err(self.wrong_before(&format!("expected {wanted} in quotation marks"))),
        }
    }

    pub(crate) fn end(&self) -> Result<()> {
        if self.at >= self.tokens.len() { Ok(()) } else { Err(self.wrong("nothing may stand here")) }
    }

    pub(crate) fn wrong(&self, what: &str) -> Error {
        self.wrong_at(self.at, what)
    }

    pub(crate) fn wrong_before(&self, what: &str) -> Error {
        self.wrong_at(self.at.saturating_sub(1), what)
    }

    pub(crate) fn wrong_at(&self, at: usize, what: &str) -> Error {
        let error = Error::new(Code::RULESET_INVALID, what.to_owned());
        match self.tokens.get(at).or(self.tokens.last()) {
            Some(token) => error.at(token.place.clone()),
            None => error,
        }
    }
}

/// Whether a word belongs to the language, and is no parameter.
pub(crate) fn is_keyword(word: &str) -> bool {
    let words = ["between", "not", "in", "matches", "where", "with", "labels", "and", "or", "of", "now"];
    words.contains(&word.to_lowercase().as_str())
}
