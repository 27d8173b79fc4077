//! `catchment config`

use std::process::ExitCode;

use catchment_core::Result;
use catchment_pipelines::LoadedConfig;
use serde_json::{Map, Value, json};

use crate::arguments::{Arguments, ProjectArguments};
use crate::show::Screen;

pub(crate) fn show(arguments: &Arguments, command: &ProjectArguments, screen: Screen) -> Result<ExitCode> {
    let loaded = LoadedConfig::load(&command.project, &arguments.set)?;
    let values = loaded.values()?;
    if screen.json {
        let all: Map<String, Value> = values
            .into_iter()
            .map(|(key, value, origin)| (key, json!({ "value": value, "origin": origin })))
            .collect();
        screen.json(&Value::Object(all));
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> =
        values.into_iter().map(|(key, value, origin)| vec![key, value, origin.to_owned()]).collect();
    screen.line(screen.table(&["KEY", "VALUE", "ORIGIN"], &rows, &[]));
    Ok(ExitCode::SUCCESS)
}
