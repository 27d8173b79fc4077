//! Kills and power cuts while a stream is written to: what was acknowledged is there, once, in order per shard.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::Stdio;

use crate::crash::disk::Disk;
use crate::project::{Done, Project};

/// A record where it is: shard, sequence number, line.
type At = (String, String, String);

/// A stream that is killed over and over.
struct Victim {
    project: Project,
    disk: Option<Disk>,
    acknowledged: Vec<At>,
    lines: usize,
    kills: usize,
}

impl Victim {
    fn new(forgets: bool) -> Self {
        let project = Project::new("CREATE VIEW a.b AS SELECT 1 AS n;");
        // The data folder is there before the disk begins to forget.
        project.call(&["stream", "create", "s", "--shards", "3"]).exits(0);
        let disk = forgets.then(|| Disk::new(project.path()));
        Self { project, disk, acknowledged: Vec::new(), lines: 0, kills: 0 }
    }

    /// Runs a command that ends at a fault, unless it ends before.
    fn run(&mut self, arguments: &[&str], fault: &str, input: &str) -> Done {
        let mut command = self.project.command(arguments);
        command.env("CATCHMENT_FAULT", fault);
        if let Some(disk) = &self.disk {
            disk.settle();
            disk.below(&mut command);
        }
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It may be dead before it has read everything.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let done: Done = child.wait_with_output().unwrap().into();
        if let Some(disk) = &self.disk {
            disk.lose_power();
        }
        self.kills += usize::from(done.code.is_none());
        done
    }

    fn put(&mut self, fault: &str) {
        let lines: String = (self.lines..self.lines + 40)
            .map(|number| format!("{{\"k\":{},\"n\":{number}}}\n", number % 7))
            .collect();
        self.lines += 40;
        let done =
            self.run(&["stream", "put", "s", "--key", "k", "--batch", "3", "--acknowledge"], fault, &lines);
        for line in done.out.lines() {
            let mut parts = line.splitn(3, ' ').map(str::to_owned);
            self.acknowledged.push((parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap()));
        }
        assert!(matches!(done.code, None | Some(0)), "{}", done.err);
    }

    fn check(&self, when: &str) {
        let out = self.project.call(&["stream", "peek", "s", "--limit", "1000000", "--json"]).exits(0).out;
        let mut found: BTreeMap<String, Vec<At>> = BTreeMap::new();
        let mut lines = BTreeSet::new();
        for line in out.lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| record[key].as_str().unwrap().to_owned();
            assert!(lines.insert(text("data")), "{when}: {} is there twice", text("data"));
            found.entry(text("shard")).or_default().push((text("shard"), text("sequence"), text("data")));
        }
        let mut acknowledged: BTreeMap<&String, Vec<&At>> = BTreeMap::new();
        for at in &self.acknowledged {
            acknowledged.entry(&at.0).or_default().push(at);
        }
        for (shard, wanted) in acknowledged {
            // In between there may be records whose writer died before it was told.
            let mut there = found.get(shard).into_iter().flatten();
            for at in wanted {
                assert!(
                    there.any(|found| found == at),
                    "{when}: {at:?} was acknowledged and is not there, or not in order"
                );
            }
        }
        for records in found.values() {
            assert!(records.windows(2).all(|pair| pair[0].1 < pair[1].1), "{when}");
        }
    }
}

fn survive(forgets: bool) {
    let mut victim = Victim::new(forgets);
    for round in 0..26 {
        let point = ["log-written", "log-synced", "any", "any"][round % 4];
        victim.put(&format!("{point}:{}:abort", 1 + (round * 7) % 27));
        victim.check(&format!("round {round}"));
        if round % 5 == 4 {
            let count = (1 + round % 4).to_string();
            let fault = ["log-changed:1:abort", "log-changed:9:abort"][round % 2];
            victim.run(&["stream", "reshard", "s", "--to", &count], fault, "");
            victim.check(&format!("reshard after round {round}"));
        }
    }
    assert!(victim.kills >= 20, "{} kills", victim.kills);
    let last = victim.acknowledged.len();
    victim.put("log-changed:1:abort");
    assert_eq!(victim.acknowledged.len(), last + 40, "undisturbed, all lines are acknowledged");
    victim.check("the end");
}

#[test]
fn no_kill_loses_or_repeats_a_record_that_was_acknowledged() {
    survive(false);
}

#[test]
fn no_power_cut_loses_or_repeats_a_record_that_was_acknowledged() {
    survive(true);
}
