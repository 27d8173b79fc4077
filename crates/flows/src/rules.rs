//! Holds a batch to the dataset's ruleset, as a whole, before it is staged.

use std::sync::Arc;

use catchment_catalog::RuleRecord;
use catchment_core::{Code, Error, Result};
use catchment_ingest::{AddedFile, Range, Rejects, Source, TableSource, TableStanding};
use catchment_lake::WrittenFiles;
use catchment_quality::{Action, RuleOutcome, RulesetPlan, RulesetState};
use catchment_sql::{Moment, Planner, SqlText, parse_single_query, query_error};
use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type};
use futures::TryStreamExt;

use crate::records::BatchPlan;
use crate::runtime::Runtime;
use crate::spec::FlowSpec;

/// The rules of a batch, and the queries that some of them are.
#[derive(Debug)]
pub(crate) struct BatchRules {
    pub(crate) plan: RulesetPlan,
    queries: Vec<String>,
}

impl Runtime {
    /// The rules that a batch is held to.
    pub(crate) fn batch_rules(&self, spec: &FlowSpec, planner: &Planner) -> Result<Option<Arc<BatchRules>>> {
        let Some(ruleset) = &spec.ruleset else { return Ok(None) };
        let (plan, queries) = RulesetPlan::new(ruleset, planner, &spec.table.schema)?;
        Ok((!plan.is_empty()).then(|| Arc::new(BatchRules { plan, queries })))
    }

    /// Judges the rows that a batch has written.
    pub(crate) async fn judge_rules(
        &self,
        spec: &FlowSpec,
        batch: &BatchPlan,
        rules: &BatchRules,
        seen: Vec<RulesetState>,
        written: &WrittenFiles,
    ) -> Result<Vec<RuleOutcome>> {
        let mut results = Vec::new();
        for query in &rules.queries {
            let files = written.adds.iter().map(AddedFile::of).collect();
            results.push(self.rule_query(spec, batch, query, files).await?);
        }
        rules.plan.judge(seen, written.rows, &results)
    }

    /// Runs the query of a rule over the rows of a batch, as table `primary`: how many rows it gives, and
    /// the number in its first row and column.
    async fn rule_query(
        &self,
        spec: &FlowSpec,
        batch: &BatchPlan,
        query: &str,
        files: Vec<AddedFile>,
    ) -> Result<(u64, Option<f64>)> {
        let planner = self.sessions.planner(Moment { micros: batch.planned_at, seed: batch.seed })?;
        let text = SqlText::new("ruleset", query);
        let bound = parse_single_query(&text)?.bind(&text, &|_| None)?;
        let source = TableSource::new(self.owner.lake(), &spec.target, Arc::clone(&spec.table.schema));
        let upto = TableStanding { version: 0, last: 0, snapshot: false };
        for relation in &bound.relations {
            let (rejects, _) = Rejects::channel();
            let range = Range::Table { upto, files: files.clone() };
            planner.bind(&relation.key, source.read(&range, rejects, None)?)?;
        }
        let plan = planner.plan(&text, &bound).await?;
        let rows: Vec<RecordBatch> =
            planner.run(planner.physical(&plan).await?)?.try_collect().await.map_err(query_error)?;
        let first = rows.iter().find(|rows| rows.num_rows() > 0).and_then(|rows| {
            let number = cast(rows.columns().first()?, &DataType::Float64).ok()?;
            let number = number.as_primitive::<Float64Type>();
            number.is_valid(0).then(|| number.value(0))
        });
        Ok((rows.iter().map(|rows| rows.num_rows() as u64).sum(), first))
    }
}

/// Fails when a rule that lets the batch fail was broken.
pub(crate) fn require_rules(dataset: &str, outcomes: &[RuleOutcome]) -> Result<()> {
    let broken = outcomes.iter().filter(|outcome| !outcome.passed && outcome.action == Action::Fail);
    let said: Vec<String> = broken
        .map(|outcome| match outcome.value {
            Some(value) => format!("{} (it is {value})", outcome.rule),
            None => outcome.rule.clone(),
        })
        .collect();
    if said.is_empty() {
        return Ok(());
    }
    let message = format!("ruleset of \"{dataset}\" failed: {}", said.join("; "));
    Err(Error::new(Code::EXPECTATION_FAILED, message).hint(
        "nothing of the batch was published; mend the input or the rule, or label the rule \
         \"on_violation\"=\"warn\" or, for rules about single rows, \"quarantine\"",
    ))
}

/// What the books keep of the rules.
pub(crate) fn records(outcomes: Vec<RuleOutcome>) -> Vec<RuleRecord> {
    outcomes
        .into_iter()
        .map(|outcome| RuleRecord {
            rule: outcome.rule,
            passed: outcome.passed,
            value: outcome.value.filter(|value| value.is_finite()),
            action: outcome.action.to_string(),
        })
        .collect()
}
