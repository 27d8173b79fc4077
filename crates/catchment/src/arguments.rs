//! The arguments of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::commands::alert::AlertAction;
use crate::commands::replay_events::ReplayEventsArguments;

/// Events, files and database changes in; datasets declared in SQL out, as open Delta Lake tables.
#[derive(Debug, Parser)]
#[command(name = "catchment", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "Examples:
  catchment run examples/lakehouse          bring every dataset up to date
  catchment sql -p examples/lakehouse \"SELECT count(*) FROM curated.flights\"
  catchment explain C2003                   what an error code means and what to do")]
pub(crate) struct Arguments {
    /// Print machine-readable JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Set a value of catchment.toml, as section.key=value; may be repeated.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Parse, type-check and plan everything; touch no data; print the graph.
    ///
    /// Of an edited query it tells whether what is kept (rows that wait for windows, rows and states of serving tables) is
    /// kept or computed anew, and refuses it when neither is possible; with --full-refresh it tells from where it is built.
    #[command(after_help = "Examples:
  catchment check                           the project in this folder
  catchment check shop --full-refresh --select web.counts")]
    Check(CheckArguments),
    /// Bring datasets up to date with all input available now, then stop.
    ///
    /// Exits with 0 when all is up to date, 1 when something failed, 2 when everything ran but a file
    /// or rows sit in quarantine.
    #[command(after_help = "Examples:
  catchment run                             the project in this folder
  catchment run shop --select curated.orders
  catchment run shop --full-refresh --select enriched.delays")]
    Run(RunArguments),
    /// Listen: streams are written and read with AWS's Kinesis clients.
    ///
    /// Requests are signed with keys of `catchment key create`, unless `server.open_on_loopback` is set. SIGTERM or
    /// Ctrl-C ends it after what was begun.
    #[command(after_help = "Examples:
  catchment serve shop
  aws kinesis list-streams --endpoint-url http://127.0.0.1:4566")]
    Serve(ProjectArguments),
    /// Make, look at, fill and change streams.
    ///
    /// One process has the streams of a project: beside `catchment serve`, use an AWS client with its address.
    Stream {
        #[command(subcommand)]
        action: StreamAction,
    },
    /// Test who is told of alerts, and send again what was given up.
    ///
    /// `system.alerts` tells what was raised, `system.notifications` who was told.
    Alert {
        #[command(subcommand)]
        action: AlertAction,
    },
    /// Make, list and delete the access keys of programs.
    Key {
        #[command(subcommand)]
        action: KeyAction,
    },
    /// Run one query, a file of queries, or a prompt.
    #[command(after_help = "Examples:
  catchment sql -p shop                     a prompt; \\q leaves it
  catchment sql -p shop \"SHOW TABLES\"
  catchment sql -p shop --csv -f report.sql
  catchment sql -p shop \"EXPLAIN SELECT * FROM curated.flights WHERE day = '2013-01-05'\"
  catchment sql -p shop \"DESCRIBE HISTORY curated.flights\"")]
    Sql(SqlArguments),
    /// Send what a dataset has in quarantine through its current definition.
    ///
    /// Rows that pass are published and leave the quarantine in the same batch; the others stay, with the
    /// reasons they have now. Exits as `run` does.
    #[command(after_help = "Example:
  catchment replay curated.orders shop      after the rule or the query was mended")]
    Replay(ReplayArguments),
    /// Send recorded events to a stream by the Kinesis API, at a chosen speed.
    ///
    /// Keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, where the service asks for any.
    #[command(after_help = "Examples:
  catchment replay-events data/ecom.csv.gz --stream clicks --key user_id --now timestamp --rate 200
  catchment replay-events clicks.jsonl --stream clicks --endpoint http://127.0.0.1:4566 --limit 1000")]
    ReplayEvents(ReplayEventsArguments),
    /// Compute partitions of a dataset anew, from everything that it has taken.
    ///
    /// After its definition changed, or files that it had read were corrected. Only the partitions asked for are
    /// written, in one commit, or one for each step; the files of others stay as they are. Materialized views
    /// follow with the next run. Datasets that read it as a stream have to be computed anew as a whole: that is
    /// shown, and done only with --cascade. What is killed is finished by the next run.
    #[command(after_help = "Examples:
  catchment backfill curated.orders --from 2024-01-01 --to 2024-02-01
  catchment backfill curated.orders --from 2023-01-01 --to 2024-01-01 --step 7d
  catchment backfill curated.orders --where \"region = 'eu'\" --dry-run
  catchment backfill curated.orders --all               without an empty table in between")]
    Backfill(BackfillArguments),
    /// Take datasets back to what they were, with all that was made from the rows that go.
    ///
    /// Quarantine, positions and the datasets downstream go back together, so that the next run neither
    /// skips nor repeats a row. When that is more than the datasets named, it is shown, and done only with
    /// --cascade. It costs a commit for each table; nothing is copied.
    #[command(after_help = "Examples:
  catchment rollback curated.orders --to 7 --dry-run     what would happen
  catchment rollback curated.orders --to '2024-01-31 10:00:00' --cascade
  catchment rollback --all --to v1.2 -p shop             all datasets, to a release")]
    Rollback(RollbackArguments),
    /// Give the versions that datasets have now a name; without a name, list the names.
    #[command(after_help = "Examples:
  catchment release v1.2                    of all datasets
  catchment release before-deploy --select curated.orders
  catchment release                         what there is")]
    Release(ReleaseArguments),
    /// Show what two states of a dataset differ in: counts, and some of the differences.
    #[command(after_help = "Examples:
  catchment diff curated.orders monday            since a release
  catchment diff curated.orders 4 7 --key id      between two versions
  catchment diff curated.orders '2024-01-31 10:00:00'")]
    Diff(DiffArguments),
    /// Say how tables could be laid out so that queries read less.
    ///
    /// It looks at the files and partitions that there are, and at what the queries filtered by that were asked with
    /// `catchment sql` (`system.queries`).
    #[command(after_help = "Examples:
  catchment advise                          all tables
  catchment advise curated.orders -p shop")]
    Advise(AdviseArguments),
    /// Write what the lake cannot rebuild (run history) to a new file.
    ///
    /// Tables, positions, releases, published batches and lineage are in the lake; back it up as files.
    #[command(after_help = "Example:
  catchment backup /backups/shop-2024-01-31.sqlite -p shop")]
    Backup(BackupArguments),
    /// Bring a backup back, and enter what the lake tells of since then.
    #[command(after_help = "Example:
  catchment restore /backups/shop-2024-01-31.sqlite -p shop")]
    Restore(RestoreArguments),
    /// Rebuild what the lake tells of in a catalog that was lost: published batches and lineage.
    Recover(ProjectArguments),
    /// Show how each dataset stands.
    Status(ProjectArguments),
    /// Show the versions of a table, newest first.
    History(HistoryArguments),
    /// Explain an error code.
    Explain {
        /// The code, such as C2003; without one, all codes are listed.
        code: Option<String>,
    },
    /// Look at the configuration.
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Print a completion script for a shell.
    #[command(after_help = "Example:
  catchment completions bash > ~/.local/share/bash-completion/completions/catchment")]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigAction {
    /// Print every value and where it comes from.
    Show(ProjectArguments),
}

#[derive(Debug, Subcommand)]
pub(crate) enum StreamAction {
    /// List the streams.
    List {
        /// The project's folder.
        #[arg(short, long, default_value = ".")]
        project: PathBuf,
    },
    /// Make a stream.
    Create {
        /// Its name.
        name: String,
        /// How many shards it begins with.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        shards: u32,
        /// The project's folder.
        #[arg(short, long, default_value = ".")]
        project: PathBuf,
    },
    /// Delete a stream with all its records.
    Delete {
        /// Its name.
        name: String,
        /// The project's folder.
        #[arg(short, long, default_value = ".")]
        project: PathBuf,
    },
    /// Show a stream's shards.
    Describe {
        /// Its name.
        name: String,
        /// The project's folder.
        #[arg(short, long, default_value = ".")]
        project: PathBuf,
    },
    /// Show records of a stream.
    #[command(after_help = "Examples:
  catchment stream peek clicks --limit 3
  catchment stream peek clicks --newest --shard 0")]
    Peek {
        /// Its name.
        name: String,
        /// Of this shard alone.
        #[arg(long)]
        shard: Option<String>,
        /// The most records of each shard.
        #[arg(long, default_value_t = 10)]
        limit: usize,
        /// The newest ones instead of the oldest.
        #[arg(long)]
        newest: bool,
        /// The project's folder.
        #[arg(short, long, default_value = ".")]
        project: PathBuf,
    },
    /// Write the lines of standard input, each as a record.
    #[command(after_help = "Example:
  catchment stream put clicks --key user_id < clicks.jsonl")]
    Put(PutArguments),
    /// Change the number of shards, split one, or merge two.
    #[command(after_help = "Examples:
  catchment stream reshard clicks --to 4
  catchment stream reshard clicks --split 0
  catchment stream reshard clicks --merge 1 2")]
    Reshard {
        /// Its name.
        name: String,
        /// Split and merge until so many shards are open.
        #[arg(long = "to", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        count: Option<u32>,
        /// Split this shard in the middle.
        #[arg(long, conflicts_with = "count")]
        split: Option<String>,
        /// Merge these two shards, whose keys meet.
        #[arg(long, num_args = 2, conflicts_with_all = ["count", "split"])]
        merge: Vec<String>,
        /// The project's folder.
        #[arg(short, long, default_value = ".")]
        project: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PutArguments {
    /// The stream's name.
    pub(crate) name: String,

    /// The field of the JSON objects that decides the shard; without one, lines go to all shards.
    #[arg(long, value_name = "FIELD")]
    pub(crate) key: Option<String>,

    /// Print each record once it is durable: shard, sequence number and line.
    #[arg(long)]
    pub(crate) acknowledge: bool,

    /// Records that are written together.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) batch: Option<u32>,

    /// The project's folder.
    #[arg(short, long, default_value = ".")]
    pub(crate) project: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyAction {
    /// Make an access key, and print its secret, once.
    Create {
        /// What it is for.
        #[arg(long)]
        note: Option<String>,
        /// The project's folder.
        #[arg(short, long, default_value = ".")]
        project: PathBuf,
    },
    /// List the access keys.
    List {
        /// The project's folder.
        #[arg(short, long, default_value = ".")]
        project: PathBuf,
    },
    /// Delete an access key: what is signed with it is refused from then on.
    Delete {
        /// The key's id.
        id: String,
        /// The project's folder.
        #[arg(short, long, default_value = ".")]
        project: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ProjectArguments {
    /// The project's folder.
    #[arg(default_value = ".")]
    pub(crate) project: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// The project's folder.
    #[arg(default_value = ".")]
    pub(crate) project: PathBuf,

    /// Tell what `run --full-refresh` would build datasets from, and refuse none for what is kept of them.
    #[arg(long)]
    pub(crate) full_refresh: bool,

    /// Of these datasets.
    #[arg(long, value_name = "DATASET", num_args = 1.., requires = "full_refresh")]
    pub(crate) select: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// The project's folder.
    #[arg(default_value = ".")]
    pub(crate) project: PathBuf,

    /// Run only these datasets.
    #[arg(long, value_name = "DATASET", num_args = 1..)]
    pub(crate) select: Vec<String>,

    /// Empty the datasets and build them again from all their input.
    #[arg(long, conflicts_with = "from")]
    pub(crate) full_refresh: bool,

    /// Afterwards compute the partitions of the datasets anew from this time on, as `backfill` does.
    #[arg(long, value_name = "TIME", requires = "to")]
    pub(crate) from: Option<String>,

    /// Up to before this time.
    #[arg(long, value_name = "TIME", requires = "from")]
    pub(crate) to: Option<String>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("partitions").args(["from", "condition", "all", "cancel"]).required(true))]
pub(crate) struct BackfillArguments {
    /// The datasets, as schema.table.
    #[arg(required_unless_present = "cancel")]
    pub(crate) datasets: Vec<String>,

    /// The partitions of this time and later: a date, or a time (UTC unless it has an offset).
    #[arg(long, value_name = "TIME", requires = "to")]
    pub(crate) from: Option<String>,

    /// Up to before this time.
    #[arg(long, value_name = "TIME", requires = "from")]
    pub(crate) to: Option<String>,

    /// One commit for each step of so much time, such as 12h, 7d or 1month.
    #[arg(long, value_name = "LENGTH", requires = "from")]
    pub(crate) step: Option<String>,

    /// The partitions that meet a condition on the partition columns.
    #[arg(long = "where", value_name = "CONDITION")]
    pub(crate) condition: Option<String>,

    /// All partitions.
    #[arg(long)]
    pub(crate) all: bool,

    /// Give up a backfill that was begun and not finished; what was published stays.
    #[arg(long)]
    pub(crate) cancel: bool,

    /// Files that changed hold, and held, rows of these partitions alone: they count as read from now on.
    #[arg(long)]
    pub(crate) settle: bool,

    /// Also compute datasets anew, as a whole, that read the partitions as a stream.
    #[arg(long)]
    pub(crate) cascade: bool,

    /// Show what would happen, and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// The project's folder.
    #[arg(short, long, default_value = ".")]
    pub(crate) project: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArguments {
    /// The dataset, as schema.table.
    pub(crate) dataset: String,

    /// The project's folder.
    #[arg(default_value = ".")]
    pub(crate) project: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArguments {
    /// The datasets, as schema.table.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) datasets: Vec<String>,

    /// All datasets of the project.
    #[arg(long)]
    pub(crate) all: bool,

    /// A version of the one dataset, a time (UTC unless it has an offset), or the name of a release.
    #[arg(long, value_name = "VERSION|TIME|NAME")]
    pub(crate) to: String,

    /// Also take back the datasets that were made from rows that go.
    #[arg(long)]
    pub(crate) cascade: bool,

    /// Show what would happen, and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// The project's folder.
    #[arg(short, long, default_value = ".")]
    pub(crate) project: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArguments {
    /// The dataset, as schema.table.
    pub(crate) dataset: String,

    /// The earlier state: a version, a time, or a release.
    #[arg(value_name = "VERSION|TIME|NAME")]
    pub(crate) before: String,

    /// The later state; by default the newest version.
    #[arg(value_name = "VERSION|TIME|NAME")]
    pub(crate) after: Option<String>,

    /// Columns that identify a row; by default those of EXPECT UNIQUE. Without any, whole rows are compared.
    #[arg(long, value_name = "COLUMN", num_args = 1.., value_delimiter = ',')]
    pub(crate) key: Vec<String>,

    /// The most differences to show.
    #[arg(long, default_value_t = 20)]
    pub(crate) samples: usize,

    /// The project's folder.
    #[arg(short, long, default_value = ".")]
    pub(crate) project: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct AdviseArguments {
    /// The tables, as schema.table; all when none is named.
    pub(crate) tables: Vec<String>,

    /// The project's folder.
    #[arg(short, long, default_value = ".")]
    pub(crate) project: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct BackupArguments {
    /// The file to write; it must not be there yet.
    pub(crate) file: PathBuf,

    /// The project's folder.
    #[arg(short, long, default_value = ".")]
    pub(crate) project: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArguments {
    /// A file that `catchment backup` wrote.
    pub(crate) file: PathBuf,

    /// Put it in the place of the catalog that is there.
    #[arg(long)]
    pub(crate) replace: bool,

    /// The project's folder.
    #[arg(short, long, default_value = ".")]
    pub(crate) project: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ReleaseArguments {
    /// The name, such as v1.2.
    pub(crate) name: Option<String>,

    /// Only these datasets.
    #[arg(long, value_name = "DATASET", num_args = 1..)]
    pub(crate) select: Vec<String>,

    /// The project's folder.
    #[arg(short, long, default_value = ".")]
    pub(crate) project: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct SqlArguments {
    /// The project's folder.
    #[arg(short, long, default_value = ".")]
    pub(crate) project: PathBuf,

    /// Run the queries of a file, separated by semicolons.
    #[arg(short, long, value_name = "FILE", conflicts_with = "query")]
    pub(crate) file: Option<PathBuf>,

    /// Print comma-separated values.
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,

    /// The query; without one, a prompt.
    pub(crate) query: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArguments {
    /// The table, as schema.table.
    pub(crate) table: String,

    /// The project's folder.
    #[arg(default_value = ".")]
    pub(crate) project: PathBuf,

    /// How many versions to show.
    #[arg(short, long, default_value_t = 20)]
    pub(crate) limit: usize,
}
