//! Takes safety out of the code, one piece at a time, and sees a named test turn red.

use crate::Outcome;
use crate::repository::{clean_command, files, root};

struct Mutation {
    name: &'static str,
    file: &'static str,
    find: &'static str,
    replace: &'static str,
    /// The package and the test that must fail.
    test: (&'static str, &'static str),
}

const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "the position comparison",
        file: "crates/lake/src/writer.rs",
        find: "Ok(standing.is_some_and(|standing| standing >= *position))",
        replace: "Ok(standing.is_some_and(|standing| standing >= *position) && false)",
        test: ("catchment-lake", "tests::a_position_is_published_once"),
    },
    Mutation {
        name: "the position of a serving table",
        file: "crates/flows/src/serving/store.rs",
        find: "        batch.insert(&self.descriptions, name.to_string(), serde_json::to_vec(described).map_err(wrong)?);\n",
        replace: "        if self.descriptions.is_empty().unwrap_or(true) {\n            batch.insert(&self.descriptions, name.to_string(), serde_json::to_vec(described).map_err(wrong)?);\n        }\n",
        test: ("catchment", "serving::every_query_goes_on_as_if_all_rows_came_at_once"),
    },
    Mutation {
        name: "the states of a serving table",
        file: "crates/flows/src/serving/batch.rs",
        find: "        all.insert(0, states.read(&known)?);\n",
        replace: "        let _ = states.read(&known)?;\n",
        test: ("catchment", "serving::every_query_goes_on_as_if_all_rows_came_at_once"),
    },
    Mutation {
        name: "that a state in memory is forgotten",
        file: "crates/flows/src/serving/cache.rs",
        find: "        self.before.remove(&hash);\n",
        replace: "",
        test: ("catchment-flows", "serving::tests::a_state_that_is_remembered_is_the_last_one"),
    },
    Mutation {
        name: "how long a row waits for those it meets",
        file: "crates/sql/src/windows/meet.rs",
        find: "Meeting { times, after: (after.0?.max(0), after.1?.max(0)) }",
        replace: "Meeting { times, after: (after.0?.min(0), after.1?.min(0)) }",
        test: ("catchment", "windows::a_backlog_read_a_file_at_a_time_loses_no_row"),
    },
    Mutation {
        name: "that an alert is known",
        file: "crates/catalog/src/alerts.rs",
        find: "        if open.remove(key).is_some() {\n",
        replace: "        if open.remove(key).is_some() && false {\n",
        test: ("catchment", "alerts::every_kind_of_target_is_told_once_of_what_stays"),
    },
    Mutation {
        name: "the empty commit",
        file: "crates/lake/src/merge.rs",
        find: "self.commit(&mut tip, draft, &marks).await",
        replace: "{ let _ = draft; Ok(Outcome::AlreadyPublished) }",
        test: ("catchment-lake", "tests::a_merge_that_changes_nothing_still_commits_the_position"),
    },
    Mutation {
        name: "the sync of a stream's records",
        file: "crates/log/src/segment.rs",
        find: "self.file.sync_data().map_err(failed)",
        replace: "{ let _ = failed; Ok(()) }",
        test: ("catchment", "kinesis::durable::no_power_cut_loses_or_repeats_a_record_that_was_acknowledged"),
    },
    Mutation {
        name: "the sync of a file",
        file: "crates/lake/src/store.rs",
        find: "            file.sync_all()?;\n            if create_only",
        replace: "            if create_only",
        test: ("catchment", "crash::no_power_cut_at_any_step_loses_or_repeats_a_row"),
    },
    Mutation {
        name: "the sync of a folder",
        file: "crates/lake/src/store.rs",
        find: "        File::open(folder)?.sync_all()?;\n",
        replace: "",
        test: ("catchment", "crash::what_a_run_has_reported_survives_a_power_cut"),
    },
    Mutation {
        name: "the lease check",
        file: "crates/lake/src/writer.rs",
        find: "if generation.is_some_and(|generation| generation > ours) {",
        replace: "if generation.is_some_and(|generation| generation > ours && false) {",
        test: ("catchment-lake", "tests::a_former_owner_cannot_commit"),
    },
    Mutation {
        name: "the look at an unknown outcome",
        file: "crates/lake/src/writer.rs",
        find: "                    Some(_) => {}\n                    None => return Err(error),",
        replace: "                    Some(_) | None => return Err(error),",
        test: ("catchment-lake", "tests::an_error_after_a_durable_commit_is_not_a_failure"),
    },
    Mutation {
        name: "the source order of rows",
        file: "crates/flows/src/ordered.rs",
        find: "Some((_, least)) if begins >= least =>",
        replace: "Some((_, least)) if begins >= least || least > 0 =>",
        test: ("catchment", "unique::whatever_the_threads_and_batches"),
    },
    Mutation {
        name: "the parent of an epoch",
        file: "crates/flows/src/ancestry.rs",
        find: "            ends.push(parent);\n",
        replace: "            let _ = parent;\n",
        test: ("catchment", "rollback::any_history_can_be_taken_back"),
    },
    Mutation {
        name: "what readers still need",
        file: "crates/flows/src/pins.rs",
        find: "            pins.paths.extend(adds.map(|add| add.path));\n            next += 1;",
        replace: "            drop(adds);\n            next += 1;",
        test: ("catchment", "upkeep::vacuum_keeps_what_versions_releases_and_readers_need"),
    },
    Mutation {
        name: "the comparison with the watermark",
        file: "crates/sql/src/windows/mod.rs",
        find: "_ => self.ends(time).1 <= watermark,",
        replace: "_ => self.ends(time).1 < watermark,",
        test: ("catchment", "windows::a_row_is_late_when_all_its_windows_are_closed"),
    },
    Mutation {
        name: "that a window closes once",
        file: "crates/sql/src/windows/functions.rs",
        find: "closed.behind < end && end <= closed.until",
        replace: "end <= closed.until",
        test: ("catchment", "windows::streams_in_pieces_are_batches"),
    },
    Mutation {
        name: "the state that a batch goes on from",
        file: "crates/flows/src/runtime.rs",
        find: "plan.state = at;",
        replace: "let _ = at;",
        test: ("catchment", "windows::a_row_is_late_when_all_its_windows_are_closed"),
    },
    Mutation {
        name: "the wait for a backlog",
        file: "crates/flows/src/runtime.rs",
        find: "                plan.behind.insert(input.name.clone());\n",
        replace: "",
        test: ("catchment", "windows::a_backlog_read_a_file_at_a_time_loses_no_row"),
    },
    Mutation {
        name: "the look for duplicates in the table",
        file: "crates/flows/src/unique.rs",
        find: "                mark(keys, key);\n",
        replace: "",
        test: ("catchment", "unique::whatever_the_threads_and_batches"),
    },
];

/// Why a mutation cannot be tried: what it takes out does not stand once in its file, or its test is gone.
pub(crate) fn stale() -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let mut tests = String::new();
    for path in files()?.iter().filter(|path| path.extension().is_some_and(|ending| ending == "rs")) {
        tests += &std::fs::read_to_string(root().join(path))?;
    }
    let mut wrong = Vec::new();
    for Mutation { name, file, find, test: (_, test), .. } in MUTATIONS {
        if std::fs::read_to_string(root().join(file))?.matches(find).count() != 1 {
            wrong.push(format!(
                "xtask/src/mutate.rs: what \"{name}\" takes out does not stand once in {file}"
            ));
        }
        let test = test.rsplit("::").next().unwrap_or(test);
        if !tests.contains(&format!("fn {test}")) {
            wrong.push(format!("xtask/src/mutate.rs: the test of \"{name}\" is gone: {test}"));
        }
    }
    Ok(wrong)
}

/// Tries all, or those whose names hold a text.
pub(crate) fn run(name: &str) -> Outcome {
    let mut survived = Vec::new();
    for mutation in MUTATIONS.iter().filter(|mutation| mutation.name.contains(name)) {
        let path = root().join(mutation.file);
        let original = std::fs::read_to_string(&path)?;
        if original.matches(mutation.find).count() != 1 {
            return Err(format!(
                "{}: {:?} does not stand once in {}",
                mutation.name, mutation.find, mutation.file
            )
            .into());
        }
        std::fs::write(&path, original.replace(mutation.find, mutation.replace))?;
        let (package, test) = mutation.test;
        let output = clean_command("cargo")
            .args(["nextest", "run", "--workspace", "--no-tests", "fail", "--filterset"])
            .arg(format!("package(={package}) & test(={test})"))
            .output();
        std::fs::write(&path, &original)?;
        let output = output?;
        let text = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            survived.push(mutation.name);
            println!("SURVIVED  {}", mutation.name);
        } else if text.contains("1 failed") || text.contains("1 timed out") {
            println!("caught    {} by {test}", mutation.name);
        } else {
            return Err(format!("{}: the test did not run: {text}", mutation.name,).into());
        }
    }
    if survived.is_empty() {
        Ok(())
    } else {
        Err(format!("no test noticed that {} was gone", survived.join(", ")).into())
    }
}
