//! Reads rulesets. Mistakes are told with their places.

use catchment_core::{Code, Error, Result};
use catchment_sql::nearest;

use crate::dqdl::ast::{
    Analyzer, Comparison, Condition, Label, Operand, Parameter, Rule, RuleNode, Ruleset, Sources,
};
use crate::dqdl::kinds::{Compares, KINDS, Kind};
use crate::dqdl::token::Token;
use crate::dqdl::walk::{Parser, Variable, is_keyword};

/// The deepest nesting of composite rules and expressions.
const DEPTH: usize = 64;

/// The most labels of a rule, those of the ruleset counted.
const LABELS: usize = 10;

/// Parses a ruleset.
///
/// # Errors
/// Returns [`Code::RULESET_INVALID`] with its place.
pub fn parse_ruleset(file: &str, text: &str) -> Result<Ruleset> {
    let mut parser = Parser::new(file, text)?;
    let ruleset = parser.ruleset()?;
    parser.end()?;
    Ok(ruleset)
}

/// Parses one rule.
///
/// # Errors
/// As [`parse_ruleset`].
pub fn parse_rule(file: &str, text: &str) -> Result<RuleNode> {
    let mut parser = Parser::new(file, text)?;
    let rule = parser.node(0)?;
    parser.end()?;
    Ok(rule)
}

/// Parses one analyzer.
///
/// # Errors
/// As [`parse_ruleset`].
pub fn parse_analyzer(file: &str, text: &str) -> Result<Analyzer> {
    let mut parser = Parser::new(file, text)?;
    let analyzer = parser.analyzer()?;
    parser.end()?;
    Ok(analyzer)
}

impl Parser {
    fn ruleset(&mut self) -> Result<Ruleset> {
        let mut ruleset = Ruleset::default();
        let (mut rules, mut analyzers) = (false, false);
        while self.at < self.tokens.len() {
            let name = self.word("Rules, Analyzers or a name")?;
            self.sign("=")?;
            match name.as_str() {
                "Metadata" if !rules && !analyzers => ruleset.version = Some(self.metadata()?),
                "DataSources" if !rules && !analyzers => ruleset.sources = Some(self.sources()?),
                "DefaultLabels" if !rules && !analyzers => {
                    ruleset.default_labels = self.labels()?;
                    self.default_labels = ruleset.default_labels.len();
                }
                "Rules" if !rules && !analyzers => {
                    rules = true;
                    ruleset.rules = self.list(|parser| parser.node(0))?;
                }
                "Analyzers" if !analyzers => {
                    analyzers = true;
                    ruleset.analyzers = self.list(Self::analyzer)?;
                }
                _ if rules || analyzers => return Err(self.wrong_before("nothing may follow the rules")),
                _ => self.variable(name)?,
            }
        }
        if ruleset.rules.is_empty() && ruleset.analyzers.is_empty() {
            return Err(Error::new(Code::RULESET_INVALID, "no rules or analyzers provided"));
        }
        Ok(ruleset)
    }

    fn variable(&mut self, name: String) -> Result<()> {
        if name.contains(['$', '-', '.']) {
            return Err(self.wrong_before(&format!("{name:?} cannot name a value")));
        }
        let value = match self.next() {
            Some(Token::Text(text)) => Variable::Text(text),
            Some(Token::Sign("[")) => {
                let mut texts = vec![self.text("a string")?];
                while self.take(",") {
                    texts.push(self.text("a string")?);
                }
                self.sign("]")?;
                Variable::Texts(texts)
            }
            _ => return Err(self.wrong_before("a value is a string or a list of strings")),
        };
        match self.variables.insert(name.clone(), value) {
            None => Ok(()),
            Some(_) => Err(self.wrong_before(&format!("{name:?} is given twice"))),
        }
    }

    fn metadata(&mut self) -> Result<String> {
        let mut version = None;
        self.object(|parser, key| match key {
            "Version" => {
                version = Some(parser.text("a version")?);
                Ok(())
            }
            _ => Err(parser.wrong_before(&format!("Unsupported key {key:?}: Metadata has Version"))),
        })?;
        version.ok_or_else(|| self.wrong_before("Metadata needs a Version"))
    }

    fn sources(&mut self) -> Result<Sources> {
        let mut sources = Sources::default();
        self.object(|parser, key| {
            match key {
                "Primary" => sources.primary = Some(parser.text("a table")?),
                "AdditionalDataSources" => {
                    sources.additional = Some(parser.list(|parser| parser.text("a table"))?);
                }
                _ => {
                    return Err(parser.wrong_before(&format!(
                        "Unsupported key {key:?}: DataSources has Primary and AdditionalDataSources"
                    )));
                }
            }
            Ok(())
        })?;
        if sources == Sources::default() {
            return Err(self.wrong_before("DataSources names no table"));
        }
        Ok(sources)
    }

    fn object(&mut self, mut each: impl FnMut(&mut Self, &str) -> Result<()>) -> Result<()> {
        self.sign("{")?;
        loop {
            let key = self.text("a key")?;
            self.sign(":")?;
            each(self, &key)?;
            if !self.take(",") {
                return self.sign("}");
            }
        }
    }

    fn list<T>(&mut self, mut each: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        self.sign("[")?;
        let mut items = Vec::new();
        if self.take("]") {
            return Ok(items);
        }
        loop {
            items.push(each(self)?);
            if !self.take(",") {
                self.sign("]")?;
                return Ok(items);
            }
        }
    }

    /// A rule, or rules in parentheses joined by `and` or `or`; like SQL, `and` binds closer.
    fn node(&mut self, depth: usize) -> Result<RuleNode> {
        if depth > DEPTH {
            return Err(self.wrong("rules are nested too deeply"));
        }
        if !self.peek_sign("(") {
            return self.rule().map(|rule| RuleNode::One(Box::new(rule)));
        }
        let mut any = vec![self.all(depth)?];
        while self.keyword("or") {
            any.push(self.all(depth)?);
        }
        Ok(if any.len() == 1 { any.remove(0) } else { RuleNode::Or(any) })
    }

    fn all(&mut self, depth: usize) -> Result<RuleNode> {
        let mut all = Vec::new();
        loop {
            self.sign("(")?;
            all.push(self.node(depth + 1)?);
            self.sign(")")?;
            if !self.keyword("and") {
                break;
            }
        }
        Ok(if all.len() == 1 { all.remove(0) } else { RuleNode::And(all) })
    }

    fn rule(&mut self) -> Result<Rule> {
        let Some(place) = self.tokens.get(self.at).map(|token| token.place.clone()) else {
            return Err(self.wrong("a rule is missing"));
        };
        let (kind, parameters) = self.head(|kind| kind.is.0)?;
        let mut rule = Rule {
            kind: kind.name.to_owned(),
            parameters,
            condition: self.condition(kind.compares)?,
            filter: None,
            threshold: None,
            tags: Vec::new(),
            labels: Vec::new(),
            place,
        };
        self.require_condition(kind, &rule)?;
        if kind.filters && self.keyword("where") {
            rule.filter = Some(self.text("a condition in SQL")?);
        }
        while self.keyword("with") {
            if self.keyword("threshold") {
                if !kind.thresholds || rule.threshold.is_some() {
                    return Err(self.wrong_before(&format!("{} takes no threshold here", kind.name)));
                }
                rule.threshold = Some(match self.condition(Compares::Numbers)? {
                    Some(condition) => condition,
                    None => return Err(self.wrong("a threshold needs a comparison")),
                });
            } else {
                let tag = match self.next() {
                    Some(Token::Word(word) | Token::Text(word)) => word,
                    _ => return Err(self.wrong_before("expected threshold or a setting")),
                };
                self.sign("=")?;
                let value = match self.next() {
                    Some(Token::Text(value) | Token::Number(value)) => value,
                    _ => return Err(self.wrong_before("expected a value")),
                };
                rule.tags.push((tag, value));
            }
        }
        if self.keyword("labels") {
            self.sign("=")?;
            rule.labels = self.labels()?;
            if rule.labels.len() + self.default_labels > LABELS {
                return Err(
                    self.wrong_before(&format!("Number of labels exceed maximum allowed (MAX: {LABELS})"))
                );
            }
        }
        Ok(rule)
    }

    fn require_condition(&self, kind: &Kind, rule: &Rule) -> Result<()> {
        let has = rule.condition.is_some();
        let wrong = match kind.compares {
            Compares::Nothing | Compares::Query => false,
            // Two paths are compared with each other, checksums with one or none.
            Compares::Checksums => has == (rule.parameters.len() == 2),
            _ => !has,
        };
        if wrong { Err(self.wrong(&format!("{} needs a comparison", kind.name))) } else { Ok(()) }
    }

    fn analyzer(&mut self) -> Result<Analyzer> {
        let (kind, parameters) = self.head(|kind| kind.is.1)?;
        Ok(Analyzer { kind: kind.name.to_owned(), parameters })
    }

    /// The type of a rule and its parameters.
    fn head(&mut self, fits: impl Fn(&Kind) -> bool) -> Result<(&'static Kind, Vec<Parameter>)> {
        let name = self.word("a rule")?;
        let Some(kind) = Kind::named(&name).filter(|kind| fits(kind)) else {
            let names: Vec<&str> = KINDS.iter().filter(|kind| fits(kind)).map(|kind| kind.name).collect();
            let error = self.wrong_before(&format!("no rule of type {name:?} can stand here"));
            return Err(match nearest(&name, &names) {
                Some(near) => error.hint(format!("did you mean {near}?")),
                None => error,
            });
        };
        let mut parameters = Vec::new();
        while let Some(parameter) = self.parameter()? {
            parameters.push(parameter);
        }
        let (least, most) = kind.parameters;
        if !(least..=most).contains(&parameters.len()) {
            let many = if least == most { least.to_string() } else { format!("{least} to {most}") };
            return Err(
                self.wrong_before(&format!("{name} takes {many} parameters, not {}", parameters.len()))
            );
        }
        Ok((kind, parameters))
    }

    fn parameter(&mut self) -> Result<Option<Parameter>> {
        let begin = self.at;
        let connector = ["of", "and"].iter().find(|word| self.keyword(word)).map(|word| (*word).to_owned());
        let found = match self.peek() {
            Some(Token::Text(text)) => Some((text.clone(), true)),
            Some(Token::Variable(name)) => match self.variables.get(name) {
                Some(Variable::Text(text)) => Some((text.clone(), true)),
                Some(Variable::Texts(_)) => return Err(self.wrong("a list cannot stand here")),
                None => return Err(self.wrong(&format!("no value is named {name:?}"))),
            },
            Some(Token::Word(word)) if !is_keyword(word) => Some((word.clone(), false)),
            _ => None,
        };
        match found {
            Some((text, quoted)) => {
                self.at += 1;
                Ok(Some(Parameter { text, quoted, connector }))
            }
            None => {
                self.at = begin;
                Ok(None)
            }
        }
    }

    fn condition(&mut self, compares: Compares) -> Result<Option<Condition>> {
        if compares == Compares::Nothing {
            return Ok(None);
        }
        let negated = self.keyword("not");
        let comparison = if self.keyword("between") {
            if negated { Comparison::NotBetween } else { Comparison::Between }
        } else if self.keyword("in") {
            if negated { Comparison::NotIn } else { Comparison::In }
        } else if self.keyword("matches") {
            if negated { Comparison::NotMatches } else { Comparison::Matches }
        } else if negated {
            return Err(self.wrong("expected between, in or matches after not"));
        } else {
            let signs = [
                ("=", Comparison::Equal),
                ("!=", Comparison::NotEqual),
                ("<=", Comparison::LessOrEqual),
                ("<", Comparison::Less),
                (">=", Comparison::GreaterOrEqual),
                (">", Comparison::Greater),
            ];
            match signs.iter().find(|(sign, _)| self.take(sign)) {
                Some((_, comparison)) => *comparison,
                None => return Ok(None),
            }
        };
        let operands = match comparison {
            Comparison::Between | Comparison::NotBetween => {
                let first = self.operand(compares)?;
                if !self.keyword("and") {
                    return Err(self.wrong("expected and"));
                }
                vec![first, self.operand(compares)?]
            }
            Comparison::In | Comparison::NotIn => self.set(compares)?,
            Comparison::Matches | Comparison::NotMatches if matches!(compares, Compares::Values) => {
                vec![Operand::Text(self.text("a regular expression")?)]
            }
            Comparison::Matches | Comparison::NotMatches => {
                return Err(self.wrong_before("only values match"));
            }
            _ => vec![self.operand(compares)?],
        };
        Ok(Some(Condition { comparison, operands }))
    }

    fn set(&mut self, compares: Compares) -> Result<Vec<Operand>> {
        if let Some(Token::Variable(name)) = self.peek().cloned() {
            self.at += 1;
            return match self.variables.get(&name) {
                Some(Variable::Texts(texts)) => Ok(texts.iter().cloned().map(Operand::Text).collect()),
                Some(Variable::Text(_)) => Err(self.wrong_before("a list must stand here")),
                None => Err(self.wrong_before(&format!("no value is named {name:?}"))),
            };
        }
        let operands = self.list(|parser| parser.operand(compares))?;
        let is = |wanted: fn(&Operand) -> bool| operands.iter().any(wanted);
        let mixed = is(|operand| matches!(operand, Operand::Number(_)))
            && is(|operand| matches!(operand, Operand::Text(_)));
        if operands.is_empty() || mixed {
            return Err(self.wrong_before("a list holds numbers, or texts, and is not empty"));
        }
        Ok(operands)
    }

    fn operand(&mut self, compares: Compares) -> Result<Operand> {
        let operand = match compares {
            Compares::Numbers | Compares::Query => self.number_or_history()?,
            Compares::Texts | Compares::Checksums => Operand::Text(self.text("a text")?),
            Compares::Values => match self.peek() {
                Some(Token::Word(word)) if KEYWORDS.contains(&word.as_str()) => {
                    let word = word.clone();
                    self.at += 1;
                    Operand::Keyword(word)
                }
                Some(Token::Text(_) | Token::Variable(_)) => Operand::Text(self.text("a text")?),
                Some(Token::Number(_) | Token::Sign("-")) => Operand::Number(self.number()?),
                _ => self.now()?,
            },
            Compares::Times => match self.peek() {
                Some(Token::Text(_)) => Operand::Text(self.time_or_date()?),
                _ => self.now()?,
            },
            Compares::Durations => self.quantity(&["minutes", "hours", "days"])?,
            Compares::Sizes => match self.tokens.get(self.at + 1).map(|token| &token.token) {
                Some(Token::Word(word)) if !is_keyword(word) => {
                    self.quantity(&["B", "KB", "MB", "GB", "TB"])?
                }
                // Without a unit, bytes.
                _ => Operand::Number(self.number()?),
            },
            Compares::Nothing => return Err(self.wrong("nothing is compared here")),
        };
        Ok(operand)
    }

    fn quantity(&mut self, units: &[&str]) -> Result<Operand> {
        let number = self.number()?;
        let unit = self.word("a unit")?;
        if !units.contains(&unit.as_str()) {
            return Err(self.wrong_before(&format!("{unit:?} is no unit; units: {}", units.join(", "))));
        }
        Ok(Operand::Quantity(number, unit))
    }

    /// `now()`, or `(now() - 3 days)`.
    fn now(&mut self) -> Result<Operand> {
        if !self.take("(") {
            self.now_call()?;
            return Ok(Operand::Now(None));
        }
        self.now_call()?;
        let sign = if self.take("-") {
            -1
        } else {
            self.sign("+")?;
            1
        };
        let Operand::Quantity(number, unit) = self.quantity(&["minutes", "hours", "days"])? else {
            return Err(self.wrong_before("expected an amount of time"));
        };
        self.sign(")")?;
        let amount: i64 = number.parse().map_err(|_| self.wrong_before("expected a whole number"))?;
        Ok(Operand::Now(Some((sign * amount, unit))))
    }

    fn now_call(&mut self) -> Result<()> {
        if !self.keyword("now") {
            return Err(self.wrong("expected a value"));
        }
        self.sign("(")?;
        self.sign(")")
    }

    fn time_or_date(&mut self) -> Result<String> {
        let text = self.text("a date or a time")?;
        let (clock, half) = match text.split_once(' ') {
            Some((clock, half)) => (clock, Some(half)),
            None => (text.as_str(), None),
        };
        let is_time = clock.split_once(':').is_some_and(|(hour, minute)| {
            let limit = if half.is_some() { 1..=12 } else { 0..=23 };
            hour.parse::<u32>().is_ok_and(|hour| limit.contains(&hour))
                && minute.len() == 2
                && minute.parse::<u32>().is_ok_and(|minute| minute < 60)
                && matches!(half, None | Some("AM" | "PM"))
        });
        let is_date = text.len() == 10 && is_date(&text);
        if is_time || is_date {
            Ok(text)
        } else {
            Err(self.wrong_before(&format!("{text:?} is no date and no time")))
        }
    }

    fn number(&mut self) -> Result<String> {
        let sign = if self.take("-") { "-" } else { "" };
        match self.next() {
            Some(Token::Number(number)) => Ok(format!("{sign}{number}")),
            _ => Err(self.wrong_before("expected a number")),
        }
    }

    /// A number, or an expression over the history of the metric; its text is kept.
    fn number_or_history(&mut self) -> Result<Operand> {
        let begin = self.at;
        let history = self.expression(0)?;
        let mut text = String::new();
        for (index, token) in self.tokens[begin..self.at].iter().enumerate() {
            if index > 0 && token.spaced {
                text.push(' ');
            }
            text.push_str(&match &token.token {
                Token::Word(word) | Token::Number(word) => word.clone(),
                Token::Text(text) => format!("\"{text}\""),
                Token::Variable(name) => format!("${name}"),
                Token::Sign(sign) => (*sign).to_owned(),
            });
        }
        Ok(if history { Operand::History(text) } else { Operand::Number(text) })
    }

    /// Reads an expression; returns whether it is more than a number.
    fn expression(&mut self, depth: usize) -> Result<bool> {
        if depth > DEPTH {
            return Err(self.wrong("an expression is nested too deeply"));
        }
        let mut history = self.term(depth)?;
        while ["+", "-", "*", "/"].iter().any(|sign| self.take(sign)) {
            self.term(depth)?;
            history = true;
        }
        Ok(history)
    }

    fn term(&mut self, depth: usize) -> Result<bool> {
        if self.take("(") {
            self.expression(depth + 1)?;
            self.sign(")")?;
            return Ok(true);
        }
        if matches!(self.peek(), Some(Token::Number(_) | Token::Sign("-"))) {
            return self.number().map(|_| false);
        }
        self.word("a number")?;
        self.sign("(")?;
        loop {
            self.expression(depth + 1)?;
            if !self.take(",") {
                break;
            }
        }
        self.sign(")").map(|()| true)
    }

    fn labels(&mut self) -> Result<Vec<Label>> {
        let mut labels: Vec<Label> = self.list(|parser| {
            let key = parser.text("a label's key")?;
            parser.sign("=")?;
            let value = parser.text("a label's value")?;
            if key.chars().count() > 128 || value.chars().count() > 256 {
                return Err(parser.wrong_before("a label has at most 128 and 256 characters"));
            }
            Ok(Label { key, value })
        })?;
        if labels.len() > LABELS {
            return Err(
                self.wrong_before(&format!("Number of labels exceed maximum allowed (MAX: {LABELS})"))
            );
        }
        for (index, label) in labels.iter().enumerate() {
            if labels[..index].iter().any(|before| before.key == label.key) {
                return Err(self.wrong_before("Duplicate label key. Key must be unique."));
            }
        }
        labels.shrink_to_fit();
        Ok(labels)
    }
}

const KEYWORDS: &[&str] = &["NULL", "EMPTY", "WHITESPACES_ONLY"];

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    matches!(parts.as_slice(), [year, month, day] if year.len() == 4
        && month.parse::<u32>().is_ok_and(|month| (1..=12).contains(&month))
        && day.parse::<u32>().is_ok_and(|day| (1..=31).contains(&day)))
}
