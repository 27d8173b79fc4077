//! Statements about whole tables: `RESTORE`, `OPTIMIZE`, `VACUUM`.

use std::time::Duration;

use catchment_core::{Code, Error, Result, TableName, format_bytes, format_count};
use catchment_pipelines::{OptimizeOptions, RETENTION, RollbackOptions, UpkeepReport, Workspace};
use catchment_sql::SqlText;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};
use serde_json::json;

use crate::commands::rollback;
use crate::show::Screen;

/// Runs a statement that begins with one of the words.
pub(crate) async fn run(workspace: &Workspace, text: &SqlText, screen: Screen) -> Result<()> {
    let tokens = text.tokens()?;
    let mut words = Words { workspace, text, tokens: &tokens, at: 0 };
    if words.take("RESTORE") {
        words.take("TABLE");
        let dataset = words.name()?;
        words.require("TO")?;
        if !words.take("VERSION") {
            words.require("TIMESTAMP")?;
        }
        words.require("AS")?;
        words.require("OF")?;
        let to = words.value()?;
        let cascade = words.take("CASCADE");
        words.end()?;
        let options = RollbackOptions { datasets: vec![dataset.to_string()], to, cascade, dry_run: false };
        return rollback::roll_back(workspace, &options, screen).await;
    }
    if words.take("OPTIMIZE") {
        words.take("TABLE");
        let table = words.name()?;
        let mut options = OptimizeOptions::default();
        if words.take("WHERE") {
            options.condition = Some(words.text_up_to("ZORDER")?);
        }
        if words.take("ZORDER") {
            words.require("BY")?;
            options.zorder = words.columns()?;
        }
        words.end()?;
        show(&[workspace.optimize(&table, &options).await?], screen);
        return Ok(());
    }
    words.require("VACUUM")?;
    words.take("TABLE");
    let table = if words.is_name() { Some(words.name()?) } else { None };
    let mut retention = RETENTION;
    if words.take("RETAIN") {
        let hours: u64 = words.value()?.parse().map_err(|_| words.wrong())?;
        retention = Duration::from_secs(hours.saturating_mul(3_600));
        words.require("HOURS")?;
    }
    let dry_run = words.take("DRY");
    if dry_run {
        words.require("RUN")?;
    }
    words.end()?;
    show(&workspace.vacuum(table.as_ref(), retention, dry_run).await?, screen);
    Ok(())
}

fn show(reports: &[UpkeepReport], screen: Screen) {
    if screen.json {
        let all: Vec<_> = reports
            .iter()
            .map(|report| {
                json!({ "table": report.table.to_string(), "files_removed": report.removed,
                    "files_added": report.added, "bytes_removed": report.bytes })
            })
            .collect();
        screen.json(&json!(all));
        return;
    }
    let rows: Vec<Vec<String>> = reports
        .iter()
        .map(|report| {
            vec![
                report.table.to_string(),
                format_count(report.removed),
                format_bytes(report.bytes),
                format_count(report.added),
            ]
        })
        .collect();
    screen.line(screen.table(&["TABLE", "FILES REMOVED", "BYTES", "FILES ADDED"], &rows, &[1, 2, 3]));
}

/// The words of a statement, one after the other.
struct Words<'a> {
    workspace: &'a Workspace,
    text: &'a SqlText,
    tokens: &'a [TokenWithSpan],
    at: usize,
}

impl Words<'_> {
    fn is(&self, word: &str) -> bool {
        let token = self.tokens.get(self.at).map(|token| &token.token);
        matches!(token, Some(Token::Word(found)) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.is(word);
        self.at += usize::from(found);
        found
    }

    fn require(&mut self, word: &str) -> Result<()> {
        if self.take(word) { Ok(()) } else { Err(self.wrong()) }
    }

    fn is_name(&self) -> bool {
        let token = self.tokens.get(self.at).map(|token| &token.token);
        matches!(token, Some(Token::Word(_))) && !self.is("RETAIN") && !self.is("DRY")
    }

    fn name(&mut self) -> Result<TableName> {
        let mut parts = Vec::new();
        loop {
            let Some(Token::Word(word)) = self.tokens.get(self.at).map(|token| &token.token) else {
                return Err(self.wrong());
            };
            let value =
                if word.quote_style.is_some() { word.value.clone() } else { word.value.to_lowercase() };
            parts.push(value);
            self.at += 1;
            if self.tokens.get(self.at).map(|token| &token.token) != Some(&Token::Period) {
                break;
            }
            self.at += 1;
        }
        self.workspace.project.table_name(&parts).ok_or_else(|| self.wrong())
    }

    fn value(&mut self) -> Result<String> {
        let value = match self.tokens.get(self.at).map(|token| &token.token) {
            Some(Token::Number(number, _)) => number.clone(),
            Some(Token::SingleQuotedString(text)) => text.clone(),
            _ => return Err(self.wrong()),
        };
        self.at += 1;
        Ok(value)
    }

    /// The text up to a word, or to the end.
    fn text_up_to(&mut self, word: &str) -> Result<String> {
        let first = self.at;
        while !self.is(word) && self.end().is_err() {
            self.at += 1;
        }
        match (self.tokens.get(first), self.tokens.get(self.at.wrapping_sub(1))) {
            (Some(start), Some(last)) if self.at > first => {
                Ok(self.text.slice(start.span.start, last.span.end))
            }
            _ => Err(self.wrong()),
        }
    }

    /// Names in parentheses.
    fn columns(&mut self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        self.sign(&Token::LParen)?;
        loop {
            match self.tokens.get(self.at).map(|token| &token.token) {
                Some(Token::Word(word)) if word.quote_style.is_some() => names.push(word.value.clone()),
                Some(Token::Word(word)) => names.push(word.value.to_lowercase()),
                _ => return Err(self.wrong()),
            }
            self.at += 1;
            if self.sign(&Token::Comma).is_err() {
                break;
            }
        }
        self.sign(&Token::RParen)?;
        Ok(names)
    }

    fn sign(&mut self, sign: &Token) -> Result<()> {
        if self.tokens.get(self.at).map(|token| &token.token) != Some(sign) {
            return Err(self.wrong());
        }
        self.at += 1;
        Ok(())
    }

    fn end(&self) -> Result<()> {
        match self.tokens.get(self.at).map(|token| &token.token) {
            None | Some(Token::EOF | Token::SemiColon) => Ok(()),
            Some(_) => Err(self.wrong()),
        }
    }

    fn wrong(&self) -> Error {
        let span =
            self.tokens.get(self.at).or(self.tokens.last()).map_or_else(Span::empty, |token| token.span);
        Error::new(Code::SQL_SYNTAX, "the statement cannot be understood from here").at(self.text.place(span)).hint(
            "RESTORE [TABLE] t TO {VERSION | TIMESTAMP} AS OF state [CASCADE]; OPTIMIZE t [WHERE condition] [ZORDER BY (columns)]; VACUUM [t] [RETAIN n HOURS] [DRY RUN]",
        )
    }
}
