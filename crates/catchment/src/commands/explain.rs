//! `catchment explain`

use std::process::ExitCode;

use catchment_core::{ALL_CODES, Code, Error, Result};
use catchment_sql::nearest;
use serde_json::json;

use crate::pages::PAGES;
use crate::show::Screen;

pub(crate) fn run(code: Option<&str>, screen: Screen) -> Result<ExitCode> {
    let Some(wanted) = code else {
        if screen.json {
            let all: Vec<_> =
                ALL_CODES.iter().map(|code| json!({ "code": code.id, "title": code.title })).collect();
            screen.json(&json!(all));
        } else {
            let rows: Vec<Vec<String>> =
                ALL_CODES.iter().map(|code| vec![code.id.to_owned(), code.title.to_owned()]).collect();
            screen.line(screen.table(&["CODE", "MEANING"], &rows, &[]));
        }
        return Ok(ExitCode::SUCCESS);
    };
    let wanted = wanted.to_uppercase();
    match PAGES.iter().find(|(id, _)| *id == wanted) {
        Some((id, page)) if screen.json => screen.json(&json!({ "code": id, "page": page })),
        Some((_, page)) => screen.line(page.trim_end()),
        None => {
            let ids: Vec<&str> = ALL_CODES.iter().map(|code| code.id).collect();
            let error = Error::new(Code::USAGE, format!("no error code {wanted:?}"));
            return Err(match nearest(&wanted, &ids) {
                Some(near) => error.hint(format!("did you mean {near}?")),
                None => error.hint("catchment explain lists all codes"),
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}
