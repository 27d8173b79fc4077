//! Writes rulesets as people like to read them; what is written reads back as the same ruleset.

use std::fmt;

use crate::dqdl::ast::{Analyzer, Comparison, Condition, Label, Operand, Parameter, Rule, RuleNode, Ruleset};

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut blocks = Vec::new();
        if let Some(version) = &self.version {
            blocks.push(format!("Metadata = {{\n    \"Version\": \"{version}\"\n}}"));
        }
        if let Some(sources) = &self.sources {
            let primary = sources.primary.iter().map(|table| format!("    \"Primary\": \"{table}\""));
            let others = sources.additional.iter().map(|tables| {
                let quoted: Vec<String> = tables.iter().map(|table| format!("\"{table}\"")).collect();
                format!("    \"AdditionalDataSources\": [ {} ]", quoted.join(", "))
            });
            let lines: Vec<String> = primary.chain(others).collect();
            blocks.push(format!("DataSources = {{\n{}\n}}", lines.join(",\n")));
        }
        if !self.default_labels.is_empty() {
            blocks.push(format!("DefaultLabels = {}", labels(&self.default_labels)));
        }
        if !self.rules.is_empty() {
            blocks.push(block("Rules", &self.rules));
        }
        if !self.analyzers.is_empty() {
            blocks.push(block("Analyzers", &self.analyzers));
        }
        f.write_str(&blocks.join("\n\n"))
    }
}

fn block(name: &str, items: &[impl fmt::Display]) -> String {
    let lines: Vec<String> = items.iter().map(|item| format!("    {item}")).collect();
    format!("{name} = [\n{}\n]", lines.join(",\n"))
}

fn labels(labels: &[Label]) -> String {
    let pairs: Vec<String> =
        labels.iter().map(|label| format!("\"{}\"=\"{}\"", label.key, label.value)).collect();
    format!("[{}]", pairs.join(", "))
}

impl fmt::Display for RuleNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |nodes: &[RuleNode], word: &str| {
            let nodes: Vec<String> = nodes.iter().map(|node| format!("({node})")).collect();
            nodes.join(word)
        };
        match self {
            RuleNode::One(rule) => rule.fmt(f),
            RuleNode::And(nodes) => f.write_str(&joined(nodes, " and ")),
            RuleNode::Or(nodes) => f.write_str(&joined(nodes, " or ")),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        self.parameters.iter().try_for_each(|parameter| write!(f, " {parameter}"))?;
        if let Some(condition) = &self.condition {
            write!(f, " {condition}")?;
        }
        if let Some(filter) = &self.filter {
            write!(f, " where \"{filter}\"")?;
        }
        if let Some(threshold) = &self.threshold {
            write!(f, " with threshold {threshold}")?;
        }
        self.tags.iter().try_for_each(|(tag, value)| write!(f, " with {tag} = \"{value}\""))?;
        if !self.labels.is_empty() {
            write!(f, " labels={}", labels(&self.labels))?;
        }
        Ok(())
    }
}

impl fmt::Display for Analyzer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        self.parameters.iter().try_for_each(|parameter| write!(f, " {parameter}"))
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(word) = &self.connector {
            write!(f, "{word} ")?;
        }
        if self.quoted { write!(f, "\"{}\"", self.text) } else { f.write_str(&self.text) }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.operands.iter().map(ToString::to_string).collect();
        let word = match self.comparison {
            Comparison::Equal => "=",
            Comparison::NotEqual => "!=",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
            Comparison::Between => "between",
            Comparison::NotBetween => "not between",
            Comparison::In => "in",
            Comparison::NotIn => "not in",
            Comparison::Matches => "matches",
            Comparison::NotMatches => "not matches",
        };
        match self.comparison {
            Comparison::Between | Comparison::NotBetween => write!(f, "{word} {}", all.join(" and ")),
            Comparison::In | Comparison::NotIn => write!(f, "{word} [{}]", all.join(",")),
            _ => write!(f, "{word} {}", all.join("")),
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operand::Number(text) | Operand::Keyword(text) | Operand::History(text) => f.write_str(text),
            Operand::Text(text) => write!(f, "\"{text}\""),
            Operand::Now(None) => f.write_str("now()"),
            Operand::Now(Some((amount, unit))) => {
                let sign = if *amount < 0 { '-' } else { '+' };
                write!(f, "(now() {sign} {} {unit})", amount.unsigned_abs())
            }
            Operand::Quantity(number, unit) => write!(f, "{number} {unit}"),
        }
    }
}
