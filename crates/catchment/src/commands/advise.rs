//! `catchment advise`

use std::process::ExitCode;

use catchment_core::{Code, Error, Result, TableName};
use serde_json::json;

use crate::arguments::{AdviseArguments, Arguments};
use crate::show::Screen;
use crate::wiring;

pub(crate) async fn run(
    arguments: &Arguments,
    command: &AdviseArguments,
    screen: Screen,
) -> Result<ExitCode> {
    let workspace = wiring::workspace(&command.project, arguments)?;
    let schema = &workspace.project.config.config.project.schema;
    let named = command.tables.iter().map(|name| {
        TableName::parse(name, schema)
            .ok_or_else(|| Error::new(Code::NAME_INVALID, format!("{name:?} is not schema.table")))
    });
    let advice = workspace.advise(&named.collect::<Result<Vec<_>>>()?).await?;
    if screen.json {
        let all = advice.iter().map(|advice| {
            json!({ "table": advice.table.to_string(), "finding": advice.finding, "because": advice.because, "advice": advice.advice })
        });
        screen.json(&json!(all.collect::<Vec<_>>()));
        return Ok(ExitCode::SUCCESS);
    }
    if advice.is_empty() {
        screen.line("Nothing to advise.");
    }
    for (index, advice) in advice.iter().enumerate() {
        if index > 0 {
            screen.line("");
        }
        screen.line(format!("{}: {}", advice.table, screen.paint(advice.finding, "1")));
        screen.line(format!("  because  {}", advice.because));
        screen.line(format!("  advice   {}", advice.advice));
    }
    Ok(ExitCode::SUCCESS)
}
