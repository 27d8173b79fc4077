//! `catchment key`

use std::process::ExitCode;

use catchment_core::{Code, Error, Result, timestamp_text};
use serde_json::json;

use crate::arguments::{Arguments, KeyAction};
use crate::show::Screen;
use crate::wiring;

pub(crate) fn run(arguments: &Arguments, action: &KeyAction, screen: Screen) -> Result<ExitCode> {
    let (KeyAction::Create { project, .. } | KeyAction::List { project } | KeyAction::Delete { project, .. }) =
        action;
    let workspace = wiring::workspace(project, arguments)?;
    match action {
        KeyAction::Create { note, .. } => {
            let (key, secret) =
                workspace.create_key(note.as_deref().unwrap_or_default(), &wiring::machine()?)?;
            if screen.json {
                screen.json(&json!({ "access_key_id": key.id, "secret_access_key": secret }));
            } else {
                screen.line(format!("AWS_ACCESS_KEY_ID={}\nAWS_SECRET_ACCESS_KEY={secret}", key.id));
                screen.note("The secret is not shown again.");
            }
        }
        KeyAction::List { .. } => {
            let keys = workspace.store.keys()?;
            if screen.json {
                let all: Vec<_> = keys
                    .iter()
                    .map(|key| json!({ "access_key_id": key.id, "created_at": timestamp_text(key.created_at), "note": key.note }))
                    .collect();
                screen.json(&json!({ "keys": all }));
                return Ok(ExitCode::SUCCESS);
            }
            let rows: Vec<Vec<String>> =
                keys.into_iter().map(|key| vec![key.id, timestamp_text(key.created_at), key.note]).collect();
            screen.line(screen.table(&["ACCESS KEY", "CREATED", "NOTE"], &rows, &[]));
        }
        KeyAction::Delete { id, .. } => {
            if !workspace.store.remove_key(id)? {
                return Err(Error::new(Code::USAGE, format!("no access key {id:?}"))
                    .hint("`catchment key list` shows all"));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
