//! Rollbacks: whatever was run, edited, replayed, refreshed, filled again and killed before, datasets go back to
//! what they were, and the next run neither skips nor repeats a row.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::project::{Project, dataset};

/// What rows are held to, and made of.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Definition {
    factor: i64,
    /// Amounts that this divides are kept apart.
    divisor: i64,
}

fn pipeline(definition: Definition) -> String {
    format!(
        "CREATE STREAMING TABLE raw.events AS
           SELECT id, amount FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT, amount BIGINT', maxFilesPerTrigger => 2);
         CREATE STREAMING TABLE curated.events (
           CONSTRAINT once EXPECT UNIQUE (id) ON VIOLATION DROP ROW,
           CONSTRAINT odd_amount EXPECT (amount % {} <> 0) ON VIOLATION QUARANTINE
         ) PARTITIONED BY (part) AS SELECT id, amount, amount * {} AS made, id % {PARTS} AS part FROM STREAM raw.events;
         CREATE MATERIALIZED VIEW enriched.totals AS SELECT count(*) AS events, sum(made) AS made FROM curated.events;",
        definition.divisor, definition.factor
    )
}

/// Partitions of the curated table.
const PARTS: u64 = 3;

const CONFIG: &str = "
[engine]
threads = 1
retries = 0
[maintenance]
checkpoint_after = 3
minimum_files = 2
";

/// The version of a state that nobody can name.
const UNKNOWN: u64 = u64::MAX;

/// A table at one of its versions, and what that stands on.
#[derive(Debug, Clone, Default)]
struct State {
    version: u64,
    before: Option<usize>,
    /// Files taken, for the raw table.
    files: BTreeSet<u64>,
    /// The rows of the curated table: what was made of each id.
    rows: BTreeMap<u64, i64>,
    /// Records in quarantine: the file, and the id in it.
    apart: BTreeSet<(u64, u64)>,
    /// Whether rows were read before that are written anew here, for the raw table.
    replaced: bool,
    /// The state of the raw table that was read up to.
    read: Option<usize>,
}

fn amount(id: u64) -> i64 {
    i64::try_from(id).unwrap() * 7 + 1
}

/// The ids in a file: one of its own, and one of the file before.
fn ids(file: u64) -> [u64; 2] {
    [file, file.saturating_sub(1)]
}

/// The records of files. Two of one file with the same id are one.
fn records<'a>(files: impl IntoIterator<Item = &'a u64>) -> Vec<(u64, u64)> {
    files.into_iter().flat_map(|file| ids(*file).map(|id| (*file, id))).collect()
}

/// The states that one stands on, itself first.
fn line(states: &[State], tip: usize) -> Vec<usize> {
    std::iter::successors(Some(tip), |state| states[*state].before).collect()
}

struct World {
    project: Project,
    definition: Definition,
    files: u64,
    raw: Vec<State>,
    curated: Vec<State>,
    random: u64,
    log: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let definition = Definition { factor: 1, divisor: 3 };
        let project = Project::new(&pipeline(definition));
        project.write("catchment.toml", CONFIG);
        // Before the first version both are empty.
        let mut world = Self {
            project,
            definition,
            files: 0,
            raw: vec![State::default()],
            curated: vec![State::default()],
            random: seed,
            log: vec![format!("seed {seed}")],
        };
        world.add_files();
        world.run(false);
        world
    }

    /// SplitMix64.
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn add_files(&mut self) {
        for _ in 0..=self.below(3) {
            let lines: String = ids(self.files)
                .iter()
                .map(|id| format!("{{\"id\":{id},\"amount\":{}}}\n", amount(*id)))
                .collect();
            self.project.write(&format!("in/{:05}.jsonl", self.files), lines);
            self.files += 1;
        }
    }

    fn edit(&mut self) {
        self.definition = Definition { factor: 1 + self.below(5) as i64, divisor: 2 + self.below(4) as i64 };
        self.project.write("pipelines/all.sql", pipeline(self.definition));
    }

    /// Kills a command somewhere, or lets it finish.
    fn kill(&mut self, arguments: &[&str]) {
        let fault = format!("any:{}:abort", 1 + self.below(40));
        self.log.push(format!("{arguments:?} {fault}"));
        let mut command = self.project.command(arguments);
        command.env("CATCHMENT_FAULT", fault);
        command.output().unwrap();
    }

    /// What becomes of rows of the raw table.
    fn process(definition: Definition, rows: impl IntoIterator<Item = (u64, u64)>, state: &mut State) {
        for (file, id) in rows {
            if amount(id) % definition.divisor == 0 {
                state.apart.insert((file, id));
            } else {
                state.rows.entry(id).or_insert(amount(id) * definition.factor);
            }
        }
    }

    fn run(&mut self, refresh: bool) {
        if !refresh && self.passed_by() {
            // What was read was written anew since, and the dataset went back to before it was filled again.
            let done = self.project.call(&["run", "--json"]);
            assert_eq!(done.code, Some(1), "{:#?}\n{}", self.log, done.out);
            assert!(done.out.contains("C2007"), "{}", done.out);
            self.model_run(&done.json(), false);
            self.fill_curated(None, false);
            return;
        }
        let arguments: &[&str] = match refresh {
            true => &["run", "--json", "--full-refresh", "--select", "curated.events"],
            false => &["run", "--json"],
        };
        let done = self.project.call(arguments);
        assert!(matches!(done.code, Some(0 | 2)), "{:#?}\n{}{}", self.log, done.out, done.err);
        self.model_run(&done.json(), refresh);
        if refresh {
            // The view was not selected.
            self.check_tables();
        } else {
            self.check();
        }
    }

    /// Whether the curated table has read rows of the raw one that were written anew since.
    fn passed_by(&self) -> bool {
        let (raw, curated) = (self.raw.len() - 1, self.curated.len() - 1);
        let Some(read) = self.curated[curated].read else { return false };
        let later = line(&self.raw, raw).into_iter().take_while(|state| *state != read);
        later.into_iter().any(|state| self.raw[state].replaced)
    }

    /// The curated table takes what came before the rows that were written anew.
    fn read_up_to_replaced(&mut self) {
        let before = self.curated.len() - 1;
        let Some(read) = self.curated[before].read else { return };
        let mut later = line(&self.raw, self.raw.len() - 1);
        later.reverse();
        let later = later.into_iter().skip_while(|state| *state != read).skip(1);
        let Some(last) = later.take_while(|state| !self.raw[*state].replaced).last() else { return };
        let fresh = records(self.raw[last].files.difference(&self.raw[read].files));
        if fresh.is_empty() {
            return;
        }
        let mut curated = State {
            before: Some(before),
            version: UNKNOWN,
            read: Some(last),
            ..self.curated[before].clone()
        };
        Self::process(self.definition, fresh, &mut curated);
        self.curated.push(curated);
    }

    fn model_run(&mut self, report: &Value, refresh: bool) {
        let version = |name: &str| dataset(report, name)["version"].as_u64().unwrap_or(UNKNOWN);
        if !refresh {
            let before = self.raw.len() - 1;
            let mut raw = State {
                before: Some(before),
                version: version("raw.events"),
                replaced: false,
                ..self.raw[before].clone()
            };
            raw.files.extend(0..self.files);
            if raw.files != self.raw[before].files {
                self.raw.push(raw);
            }
        }
        if !refresh && self.passed_by() {
            self.read_up_to_replaced();
            return;
        }
        let mut before = self.curated.len() - 1;
        if refresh {
            // Emptied by a version of its own, which nobody can name.
            self.curated.push(State { version: UNKNOWN, before: Some(before), ..State::default() });
            before += 1;
        }
        let raw = self.raw.len() - 1;
        let mut curated = State {
            before: Some(before),
            version: version("curated.events"),
            ..self.curated[before].clone()
        };
        let known = curated.read.map_or_else(BTreeSet::new, |read| self.raw[read].files.clone());
        let fresh = records(self.raw[raw].files.difference(&known));
        if !fresh.is_empty() {
            curated.read = Some(raw);
            Self::process(self.definition, fresh, &mut curated);
            self.curated.push(curated);
        }
    }

    /// Computes a partition of the curated table anew, or all.
    fn fill_curated(&mut self, part: Option<u64>, crashes: bool) {
        let condition = part.map_or("TRUE".to_owned(), |part| format!("part = {part}"));
        let arguments = ["backfill", "curated.events", "--where", &condition, "--json"];
        self.log.push(format!("{arguments:?}"));
        if crashes && !self.killed_backfill(&arguments, "curated") {
            return;
        }
        let mut version = UNKNOWN;
        if !crashes {
            let done = self.project.call(&arguments);
            assert!(matches!(done.code, Some(0 | 2)), "{:#?}\n{}{}", self.log, done.out, done.err);
            version = dataset(&done.json()["run"], "curated.events")["version"].as_u64().unwrap();
        }
        self.model_fill(part, version);
        self.run(false);
    }

    /// Writes the raw table anew, and all that follows.
    fn fill_raw(&mut self, crashes: bool) {
        let arguments = ["backfill", "raw.events", "--all", "--cascade", "--json"];
        self.log.push(format!("{arguments:?}"));
        if crashes && !self.killed_backfill(&arguments, "raw") {
            return;
        }
        let mut versions = (UNKNOWN, UNKNOWN);
        if !crashes {
            let done = self.project.call(&arguments);
            assert!(matches!(done.code, Some(0 | 2)), "{:#?}\n{}{}", self.log, done.out, done.err);
            let report = done.json();
            let version = |name: &str| dataset(&report["run"], name)["version"].as_u64().unwrap();
            versions = (version("raw.events"), version("curated.events"));
        }
        let before = self.raw.len() - 1;
        let raw =
            State { before: Some(before), version: versions.0, replaced: true, ..self.raw[before].clone() };
        self.raw.push(raw);
        self.model_fill(None, versions.1);
        self.run(false);
    }

    /// Kills a backfill somewhere; tells whether it is going to be finished, or was.
    fn killed_backfill(&mut self, arguments: &[&str], schema: &str) -> bool {
        let before = self.replacements(schema);
        self.kill(arguments);
        self.project.path().join("lake/_catchment/backfill.json").exists()
            || self.replacements(schema) > before
    }

    /// Commits of a table that put partitions in the place of others.
    fn replacements(&self, schema: &str) -> usize {
        let log = self.project.path().join(format!("lake/{schema}/events/_delta_log"));
        let entries =
            std::fs::read_dir(log).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
        entries.filter(|bytes| String::from_utf8_lossy(bytes).contains("\"replaces\"")).count()
    }

    fn model_fill(&mut self, part: Option<u64>, version: u64) {
        let before = self.curated.len() - 1;
        let raw = self.raw.len() - 1;
        let mut curated =
            State { before: Some(before), version, read: Some(raw), ..self.curated[before].clone() };
        let is_meant = |id: u64| part.is_none_or(|part| id % PARTS == part);
        curated.rows.retain(|id, _| !is_meant(*id));
        let again = records(&self.raw[raw].files);
        let again: Vec<_> = again
            .into_iter()
            .filter(|record| is_meant(record.1) && !curated.apart.contains(record))
            .collect();
        Self::process(self.definition, again, &mut curated);
        self.curated.push(curated);
    }

    fn replay(&mut self) {
        let report = self.project.call(&["replay", "curated.events", "--json"]).json();
        let before = self.curated.len() - 1;
        let mut curated = State { before: Some(before), ..self.curated[before].clone() };
        if let Some(version) = dataset(&report, "curated.events")["version"].as_u64() {
            curated.version = version;
        }
        let apart = std::mem::take(&mut curated.apart);
        Self::process(self.definition, apart, &mut curated);
        self.curated.push(curated);
        self.check_tables();
    }

    /// Takes the raw or the curated table back to one of its states.
    fn roll_back(&mut self, raw: bool, crashes: bool) {
        let states = if raw { &self.raw } else { &self.curated };
        let known: Vec<usize> = (1..states.len()).filter(|state| states[*state].version != UNKNOWN).collect();
        let chosen = known[self.below(known.len() as u64) as usize];
        let (name, version) = match raw {
            true => ("raw.events", self.raw[chosen].version),
            false => ("curated.events", self.curated[chosen].version),
        };
        let to = version.to_string();
        let arguments = ["rollback", name, "--to", to.as_str(), "--cascade", "--json"];
        self.log.push(format!("{arguments:?}"));
        if crashes {
            self.kill(&arguments);
            let begun = self.project.path().join("lake/_catchment/rollback.json").exists();
            if begun {
                // Whoever writes the lake next finishes it, before it plans anything.
                self.model_rollback(raw, chosen, &BTreeMap::new());
                self.run(false);
                return;
            }
        }
        let done = self.project.call(&arguments);
        assert_eq!(done.code, Some(0), "{:#?}\n{}", self.log, done.err);
        let report = done.json();
        let tables =
            report["steps"].as_array().unwrap().iter().flat_map(|step| step["tables"].as_array().unwrap());
        let made = tables
            .map(|table| (table["table"].as_str().unwrap().to_owned(), table["from"].as_u64().unwrap() + 1))
            .collect();
        self.model_rollback(raw, chosen, &made);
        self.check_tables();
    }

    /// `made` has the versions that the rollback made, where they are known.
    fn model_rollback(&mut self, raw: bool, chosen: usize, made: &BTreeMap<String, u64>) {
        let version = |name: &str| made.get(name).copied().unwrap_or(UNKNOWN);
        if raw && chosen + 1 != self.raw.len() {
            let version = version("raw.events");
            let raw = State { before: Some(chosen), version, replaced: false, ..self.raw[chosen].clone() };
            self.raw.push(raw);
        }
        let start = if raw { self.curated.len() - 1 } else { chosen };
        let held = line(&self.raw, self.raw.len() - 1);
        let stays = |state: &usize| self.curated[*state].read.is_none_or(|read| held.contains(&read));
        let found = line(&self.curated, start).into_iter().find(stays).unwrap();
        if found + 1 != self.curated.len() {
            let version = version("curated.events");
            self.curated.push(State { before: Some(found), version, ..self.curated[found].clone() });
        }
    }

    /// The tables hold what the model does.
    fn check_tables(&self) {
        let (raw, curated) = (&self.raw[self.raw.len() - 1], &self.curated[self.curated.len() - 1]);
        let mut expected: Vec<u64> = raw.files.iter().flat_map(|file| ids(*file)).collect();
        expected.sort_unstable();
        let found = self.numbers("SELECT id FROM raw.events ORDER BY id");
        assert_eq!(found, expected, "{:#?}", self.log);
        let found = self.project.query("SELECT id, made FROM curated.events ORDER BY id");
        let expected: Vec<Value> =
            curated.rows.iter().map(|(id, made)| json!({ "id": id, "made": made })).collect();
        assert_eq!(found, json!(expected), "{:#?}\n{}", self.log, self.histories());
        // A record may stand there twice: it was twice in the raw table.
        let expected = curated.apart.iter().map(|(_, id)| *id).collect::<BTreeSet<_>>();
        let expected = expected.into_iter().collect::<Vec<_>>();
        assert_eq!(self.apart(), expected, "{:#?}\n{}", self.log, self.histories());
    }

    fn histories(&self) -> String {
        let tables = ["raw.events", "curated.events", "curated.events__quarantine"];
        tables.map(|table| self.project.call(&["history", table, "--limit", "100"]).out).join("\n")
    }

    fn check(&self) {
        self.check_tables();
        let curated = &self.curated[self.curated.len() - 1];
        let made = (!curated.rows.is_empty()).then(|| curated.rows.values().sum::<i64>());
        let mut expected = json!({ "events": curated.rows.len() });
        if let Some(made) = made {
            expected["made"] = json!(made);
        }
        assert_eq!(
            self.project.query("SELECT events, made FROM enriched.totals"),
            json!([expected]),
            "{:#?}",
            self.log
        );
    }

    fn numbers(&self, sql: &str) -> Vec<u64> {
        self.project.query(sql).as_array().unwrap().iter().map(|row| row["id"].as_u64().unwrap()).collect()
    }

    fn apart(&self) -> Vec<u64> {
        if !self.project.path().join("lake/curated/events__quarantine").exists() {
            return Vec::new();
        }
        let records = self.project.query("SELECT DISTINCT record FROM curated.events__quarantine");
        let ids = records.as_array().unwrap().iter().map(|row| {
            let record: Value = serde_json::from_str(row["record"].as_str().unwrap()).unwrap();
            record["id"].as_u64().unwrap()
        });
        ids.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Fills partitions again, after what is new was taken.
    fn fill(&mut self, fill: &dyn Fn(&mut Self)) {
        self.run(false);
        fill(self);
    }

    fn step(&mut self) {
        let choice = self.below(14);
        self.log.push(format!("step {choice}"));
        match choice {
            0 | 1 => {
                self.add_files();
                self.run(false);
            }
            2 => {
                self.edit();
                self.add_files();
                self.run(false);
            }
            3 => {
                self.edit();
                self.replay();
            }
            4 => {
                self.add_files();
                self.kill(&["run"]);
                self.run(false);
            }
            5 => self.run(true),
            6 => self.roll_back(true, false),
            7 => self.roll_back(false, false),
            8 => self.roll_back(true, true),
            9 => self.roll_back(false, true),
            10 => {
                self.edit();
                let part = self.below(PARTS);
                self.fill(&|world| world.fill_curated(Some(part), false));
            }
            11 => self.fill(&|world| world.fill_raw(false)),
            12 => {
                self.edit();
                let part = self.below(PARTS);
                self.fill(&|world| world.fill_curated(Some(part), true));
            }
            _ => {
                self.edit();
                self.fill(&|world| world.fill_raw(true));
            }
        }
    }
}

fn explore(seeds: std::ops::Range<u64>, steps: usize) {
    for seed in seeds {
        let mut world = World::new(seed);
        for _ in 0..steps {
            world.step();
        }
        world.add_files();
        world.run(false);
    }
}

#[test]
fn any_history_can_be_taken_back() {
    explore(0..6, 12);
}

#[test]
fn long_histories_that_once_broke_can_be_taken_back() {
    explore(1_000..1_001, 30);
    explore(1_006..1_007, 30);
}

#[test]
#[ignore = "takes an hour: cargo nextest run --run-ignored only -E 'test(many_histories)'"]
fn many_histories_can_be_taken_back() {
    explore(1_000..1_200, 30);
}
