//! Files that are cleaned when they were read must be read by nothing else: it would miss them.

use std::collections::BTreeMap;

use catchment_core::{Code, Error, Place, TableName};
use catchment_ingest::files::ReadFiles;
use catchment_sql::Target;

use crate::check::Draft;
use crate::project::Project;
use crate::sources::SourceCall;

/// Errors of calls of `read_files` with `cleanSource` that share files with another call, or are read as a whole.
pub(crate) fn shared_sources(project: &Project, drafts: &BTreeMap<TableName, Vec<Draft<'_>>>) -> Vec<Error> {
    let mut calls: Vec<(ReadFiles, bool, Place, String)> = Vec::new();
    for draft in drafts.values().flatten() {
        for relation in &draft.query.relations {
            if let Target::Function { name, arguments } = &relation.target
                && let Ok(SourceCall::Files(call)) =
                    SourceCall::parse(project, name, arguments, draft.text, relation.span)
            {
                let place = draft.text.place(relation.span);
                calls.push((call, relation.streaming, place, draft.flow.to_string()));
            }
        }
    }
    let mut errors = Vec::new();
    for (index, (call, streaming, place, _)) in calls.iter().enumerate().filter(|(_, call)| call.0.cleans()) {
        if !streaming {
            errors.push(
                Error::new(
                    Code::OPTION_INVALID,
                    "cleanSource would take files away that are read as a whole",
                )
                .hint("write STREAM before read_files, or leave cleanSource out")
                .at(place.clone()),
            );
        }
        let others = calls.iter().enumerate().filter(|(other, _)| *other != index);
        if let Some((_, (other, .., reader))) =
            others.into_iter().find(|(_, (other, ..))| call.may_share_files(other))
        {
            errors.push(
                Error::new(
                    Code::OPTION_INVALID,
                    format!(
                        "cleanSource would take files away that flow \"{reader}\" reads from {:?}",
                        other.path
                    ),
                )
                .hint("read the files once, into a table that others read, or leave cleanSource out")
                .at(place.clone()),
            );
        }
    }
    errors
}
