//! Rulesets made ready to run: each rule becomes metrics over rows and a judgement of their values.
//!
//! All metrics are computed while the rows pass by, several threads each with a state of their own.
//! Queries of `CustomSql` are run by the caller, over the rows as a table named `primary`.
//!
//! Nulls meet conditions on values and lengths unless these name `NULL`, as in AWS Glue: that there are
//! none is what `IsComplete` asks for. `matches` means the whole text.

use std::collections::HashMap;
use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_sql::{Planner, SqlText};
use datafusion::arrow::array::{AsArray, BooleanArray, RecordBatch};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{Float64Type, SchemaRef};
use datafusion::physical_plan::PhysicalExpr;

use crate::dqdl::{Comparison, Condition, Operand, Rule, RuleNode, Ruleset};
use crate::expectation::Action;
use crate::key_hash::KeyHasher;
use crate::row_rules::hold;
use crate::rule_sql::{row_condition, text_literal, unescape};

/// Keys that the metrics of one ruleset may hold, in all threads together.
const MOST_KEYS: usize = 32 << 20;

/// A ruleset, ready to be evaluated on the rows of a table.
#[derive(Debug)]
pub struct RulesetPlan {
    rules: Vec<PlannedRule>,
    metrics: Vec<Metric>,
}

#[derive(Debug)]
struct PlannedRule {
    text: String,
    action: Action,
    node: Judgement,
}

/// How the values of metrics become a verdict.
#[derive(Debug)]
enum Judgement {
    /// Known before there are rows.
    Fixed(bool),
    /// The value of a metric meets a condition.
    Value(Value, Condition),
    /// The result of a query, by its index among the queries.
    Query(usize, Option<Condition>, Option<Condition>),
    And(Vec<Judgement>),
    Or(Vec<Judgement>),
}

/// What is read off a metric, by the metric's index.
#[derive(Debug, Clone, Copy)]
enum Value {
    Rows(usize),
    Share(usize),
    Sum(usize),
    Mean(usize),
    Deviation(usize),
    Distinct(usize),
    Unique(usize),
    Known(f64),
}

#[derive(Debug)]
struct Metric {
    filter: Option<Arc<dyn PhysicalExpr>>,
    kind: MetricKind,
}

#[derive(Debug)]
enum MetricKind {
    /// Rows, and those that meet a condition.
    Share(Option<Arc<dyn PhysicalExpr>>),
    /// Count, mean and squares of a number.
    Moments(Arc<dyn PhysicalExpr>),
    /// How often each key occurs.
    Keys(KeyHasher),
}

/// What the rules have seen so far.
#[derive(Debug, Default)]
pub struct RulesetState {
    states: Vec<MetricState>,
}

#[derive(Debug, Default)]
struct MetricState {
    rows: u64,
    met: u64,
    count: f64,
    /// The sum, and what rounding took from it (Neumaier).
    sum: (f64, f64),
    mean: f64,
    squares: f64,
    /// Keys, and whether each occurred more than once.
    keys: HashMap<u128, bool>,
}

/// What became of one rule.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleOutcome {
    /// The rule as it is written.
    pub rule: String,
    /// Whether it held.
    pub passed: bool,
    /// The value that was judged, where there is one.
    pub value: Option<f64>,
    /// What a broken rule does.
    pub action: Action,
}

/// Makes a ruleset ready.
struct Maker<'a> {
    planner: &'a Planner,
    schema: &'a SchemaRef,
    metrics: Vec<Metric>,
    queries: Vec<String>,
}

impl RulesetPlan {
    /// Plans the rules of a ruleset over rows of a schema, with the queries that the caller has to run.
    /// Rules whose label makes them expectations on single rows are left out: see [`crate::row_expectations`].
    ///
    /// # Errors
    /// Returns [`Code::NOT_SUPPORTED`] for rules that are not evaluated yet, and errors of names and types,
    /// each with its place.
    pub fn new(ruleset: &Ruleset, planner: &Planner, schema: &SchemaRef) -> Result<(Self, Vec<String>)> {
        let mut maker = Maker { planner, schema, metrics: Vec::new(), queries: Vec::new() };
        let mut rules = Vec::new();
        let mut errors = Vec::new();
        for node in &ruleset.rules {
            let made = action(ruleset, node).and_then(|action| match action {
                Action::Quarantine => Ok(None),
                _ => maker.node(node).map(|judgement| Some((action, judgement))),
            });
            match made {
                Ok(Some((action, judgement))) => {
                    rules.push(PlannedRule { text: node.to_string(), action, node: judgement });
                }
                Ok(None) => {}
                Err(error) => errors.extend(error.split()),
            }
        }
        Error::join(errors)?;
        Ok((Self { rules, metrics: maker.metrics }, maker.queries))
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// A state that has seen nothing.
    #[must_use]
    pub fn start(&self) -> RulesetState {
        RulesetState { states: self.metrics.iter().map(|_| MetricState::default()).collect() }
    }

    /// Lets the rules see rows.
    ///
    /// # Errors
    /// Returns [`Code::MEMORY`] when a rule about keys would hold too many, and errors of evaluation.
    pub fn see(&self, state: &mut RulesetState, rows: &RecordBatch) -> Result<()> {
        for (metric, state) in self.metrics.iter().zip(&mut state.states) {
            let filtered;
            let rows = match &metric.filter {
                None => rows,
                Some(filter) => {
                    let held = BooleanArray::new(hold(filter.as_ref(), rows)?, None);
                    filtered = filter_record_batch(rows, &held).map_err(failed)?;
                    &filtered
                }
            };
            state.see(&metric.kind, rows)?;
        }
        Ok(())
    }

    /// Judges what all threads have seen together. `results` holds, for each query, the rows it gave and
    /// the number in its first row and column.
    ///
    /// # Errors
    /// Returns [`Code::INTERNAL`] when a query's result is missing.
    pub fn judge(
        &self,
        seen: impl IntoIterator<Item = RulesetState>,
        rows: u64,
        results: &[(u64, Option<f64>)],
    ) -> Result<Vec<RuleOutcome>> {
        let mut all = self.start();
        for state in seen {
            all.states.iter_mut().zip(state.states).for_each(|(all, one)| all.merge(one));
        }
        self.rules
            .iter()
            .map(|rule| {
                let (passed, value) = verdict(&rule.node, &all, rows, results)?;
                Ok(RuleOutcome { rule: rule.text.clone(), passed, value, action: rule.action })
            })
            .collect()
    }
}

/// What a broken rule does, by its label `on_violation`; without one it lets the batch fail.
pub(crate) fn action(ruleset: &Ruleset, node: &RuleNode) -> Result<Action> {
    let rule = match node {
        RuleNode::One(rule) => Some(rule),
        _ => None,
    };
    let own = rule.and_then(|rule| rule.labels.iter().find(|label| label.key == ACTION_LABEL));
    let label = own.or_else(|| ruleset.default_labels.iter().find(|label| label.key == ACTION_LABEL));
    match label.map(|label| label.value.as_str()) {
        None | Some("fail") => Ok(Action::Fail),
        Some("warn") => Ok(Action::Warn),
        Some("quarantine") if rule.is_some() => Ok(Action::Quarantine),
        Some(other) => {
            let error = Error::new(
                Code::RULESET_INVALID,
                format!("label {ACTION_LABEL:?} is {other:?}, which is nothing that this rule can do"),
            )
            .hint("values: fail, warn, and quarantine for rules about single rows");
            Err(match rule {
                Some(rule) => error.at(rule.place.clone()),
                None => error,
            })
        }
    }
}

/// The label that says what a broken rule does.
const ACTION_LABEL: &str = "on_violation";

impl Maker<'_> {
    fn node(&mut self, node: &RuleNode) -> Result<Judgement> {
        match node {
            RuleNode::One(rule) => self.rule(rule).map_err(|error| match error.place() {
                Some(_) => error,
                None => error.at(rule.place.clone()),
            }),
            RuleNode::And(nodes) => {
                Ok(Judgement::And(nodes.iter().map(|node| self.node(node)).collect::<Result<_>>()?))
            }
            RuleNode::Or(nodes) => {
                Ok(Judgement::Or(nodes.iter().map(|node| self.node(node)).collect::<Result<_>>()?))
            }
        }
    }

    fn rule(&mut self, rule: &Rule) -> Result<Judgement> {
        let columns: Vec<String> = rule.parameters.iter().map(|parameter| parameter.text.clone()).collect();
        let filter = rule.filter.as_deref();
        match rule.kind.as_str() {
            "RowCount" => {
                let metric = self.metric(filter, MetricKind::Share(None))?;
                self.value(Value::Rows(metric), rule)
            }
            "ColumnCount" => self.value(Value::Known(self.schema.fields().len() as f64), rule),
            "ColumnExists" => Ok(Judgement::Fixed(self.schema.field_with_name(&columns[0]).is_ok())),
            "ColumnNamesMatchPattern" => self.names_match(&columns[0]),
            "IsComplete" | "Completeness" => {
                let condition = format!("{} IS NOT NULL", self.column(&columns[0])?);
                let share = self.share(filter, &condition)?;
                if rule.kind == "IsComplete" { Ok(all_of(share)) } else { self.value(share, rule) }
            }
            "ColumnValues" | "ColumnLength" | "ColumnDataType" => {
                let condition = row_condition(rule, self.schema)?;
                let share = self.share(filter, &condition)?;
                match &rule.threshold {
                    Some(threshold) => Ok(Judgement::Value(share, plain(threshold)?)),
                    None => Ok(all_of(share)),
                }
            }
            "IsUnique" | "Uniqueness" | "DistinctValuesCount" | "IsPrimaryKey" => self.keys(rule, &columns),
            "Mean" | "Sum" | "StandardDeviation" => {
                let number = format!("CAST({} AS DOUBLE)", self.column(&columns[0])?);
                let expr = self.plan(&number, false)?;
                let metric = self.metric(filter, MetricKind::Moments(expr))?;
                let value = match rule.kind.as_str() {
                    "Mean" => Value::Mean(metric),
                    "Sum" => Value::Sum(metric),
                    _ => Value::Deviation(metric),
                };
                self.value(value, rule)
            }
            "CustomSql" => {
                self.queries.push(unescape(&columns[0]));
                let condition = rule.condition.as_ref().map(plain).transpose()?;
                let threshold = rule.threshold.as_ref().map(plain).transpose()?;
                Ok(Judgement::Query(self.queries.len() - 1, condition, threshold))
            }
            kind => {
                Err(Error::new(Code::NOT_SUPPORTED, format!("rules of type {kind} are not supported yet")))
            }
        }
    }

    fn keys(&mut self, rule: &Rule, columns: &[String]) -> Result<Judgement> {
        for column in columns {
            self.column(column)?;
        }
        let filter = rule.filter.as_deref();
        let hasher = KeyHasher::new(self.schema, columns)?;
        let metric = self.metric(filter, MetricKind::Keys(hasher))?;
        let unique = all_of(Value::Unique(metric));
        match rule.kind.as_str() {
            "DistinctValuesCount" => self.value(Value::Distinct(metric), rule),
            "Uniqueness" => self.value(Value::Unique(metric), rule),
            "IsUnique" => Ok(unique),
            _ => {
                let mut all = vec![unique];
                for column in columns {
                    all.push(all_of(self.share(filter, &format!("{} IS NOT NULL", self.column(column)?))?));
                }
                Ok(Judgement::And(all))
            }
        }
    }

    fn names_match(&self, pattern: &str) -> Result<Judgement> {
        let condition =
            format!("{{}} ~ {}", text_literal(&format!("^(?:{})$", pattern.replace("\\\\", "\\"))));
        let mut all = true;
        for field in self.schema.fields() {
            let text = condition.replace("{}", &text_literal(field.name()));
            let expr = self.plan(&text, true)?;
            let one = RecordBatch::try_new_with_options(
                Arc::clone(self.schema),
                self.schema
                    .fields()
                    .iter()
                    .map(|field| datafusion::arrow::array::new_null_array(field.data_type(), 1))
                    .collect(),
                &datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(1)),
            )
            .map_err(failed)?;
            all &= hold(expr.as_ref(), &one)?.value(0);
        }
        Ok(Judgement::Fixed(all))
    }

    /// A column as SQL writes it, which must be there.
    fn column(&self, name: &str) -> Result<String> {
        crate::rule_sql::column(name, self.schema)
    }

    fn value(&self, value: Value, rule: &Rule) -> Result<Judgement> {
        match &rule.condition {
            Some(condition) => Ok(Judgement::Value(value, plain(condition)?)),
            None => Err(Error::new(Code::RULESET_INVALID, format!("{} needs a comparison", rule.kind))),
        }
    }

    fn share(&mut self, filter: Option<&str>, condition: &str) -> Result<Value> {
        let condition = self.plan(condition, true)?;
        self.metric(filter, MetricKind::Share(Some(condition))).map(Value::Share)
    }

    fn metric(&mut self, filter: Option<&str>, kind: MetricKind) -> Result<usize> {
        let filter = filter.map(|filter| self.plan(&unescape(filter), true)).transpose()?;
        self.metrics.push(Metric { filter, kind });
        Ok(self.metrics.len() - 1)
    }

    fn plan(&self, sql: &str, condition: bool) -> Result<Arc<dyn PhysicalExpr>> {
        let text = SqlText::new("ruleset", sql);
        // Errors of the rule's own SQL are told at the rule; the place within its text would mislead.
        let planned = text.expression().and_then(|(expr, span)| match condition {
            true => self.planner.condition(&text, &expr, span, self.schema),
            false => self.planner.expression(&text, &expr, span, self.schema),
        });
        planned.map_err(Error::without_place)
    }
}

fn all_of(share: Value) -> Judgement {
    let operands = vec![Operand::Number("1".to_owned())];
    Judgement::Value(share, Condition { comparison: Comparison::Equal, operands })
}

/// A condition over plain numbers; those over the history of a metric are not evaluated yet.
fn plain(condition: &Condition) -> Result<Condition> {
    if condition.operands.iter().any(|operand| matches!(operand, Operand::History(_))) {
        return Err(Error::new(
            Code::NOT_SUPPORTED,
            "rules over the history of a metric are not supported yet",
        ));
    }
    Ok(condition.clone())
}

impl MetricState {
    fn see(&mut self, kind: &MetricKind, rows: &RecordBatch) -> Result<()> {
        self.rows += rows.num_rows() as u64;
        match kind {
            MetricKind::Share(None) => {}
            MetricKind::Share(Some(condition)) => {
                self.met += hold(condition.as_ref(), rows)?.count_set_bits() as u64;
            }
            MetricKind::Moments(number) => {
                let values = number
                    .evaluate(rows)
                    .and_then(|value| value.into_array(rows.num_rows()))
                    .map_err(|error| Error::new(Code::SQL_EXECUTION, "a rule failed").because(error))?;
                for value in values.as_primitive::<Float64Type>().iter().flatten() {
                    // Welford's method: squares of differences from the mean, without losing digits.
                    self.count += 1.0;
                    self.sum = plus(self.sum, value);
                    let before = value - self.mean;
                    self.mean += before / self.count;
                    self.squares += before * (value - self.mean);
                }
            }
            MetricKind::Keys(hasher) => {
                for key in hasher.hashes(rows)?.into_iter().flatten() {
                    self.met += 1;
                    self.keys.entry(key).and_modify(|again| *again = true).or_insert(false);
                }
                if self.keys.len() > MOST_KEYS {
                    return Err(Error::new(
                        Code::MEMORY,
                        format!("a rule about keys holds over {MOST_KEYS} of them"),
                    )
                    .hint("say EXPECT UNIQUE in the dataset, which goes to disk, instead of IsUnique"));
                }
            }
        }
        Ok(())
    }

    fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.met += other.met;
        self.sum = plus(plus(self.sum, other.sum.0), other.sum.1);
        let count = self.count + other.count;
        if count > 0.0 {
            // Chan and others: the squares of both and of the distance between their means.
            let distance = other.mean - self.mean;
            self.squares += other.squares + distance * distance * self.count * other.count / count;
            self.mean += distance * other.count / count;
            self.count = count;
        }
        for (key, again) in other.keys {
            self.keys.entry(key).and_modify(|known| *known = true).or_insert(again);
        }
    }

    fn read(&self, value: Value) -> f64 {
        // Of no rows, all meet any condition.
        let share = |met: u64, rows: u64| if rows == 0 { 1.0 } else { met as f64 / rows as f64 };
        match value {
            Value::Rows(_) => self.rows as f64,
            Value::Share(_) => share(self.met, self.rows),
            Value::Sum(_) => self.sum.0 + self.sum.1,
            Value::Mean(_) => (self.sum.0 + self.sum.1) / self.count.max(1.0),
            Value::Deviation(_) => (self.squares / self.count.max(1.0)).sqrt(),
            Value::Distinct(_) => self.keys.len() as f64,
            Value::Unique(_) => {
                let once = self.keys.values().filter(|again| !**again).count() as u64;
                // Of all rows with a key: [a, a, b] has one unique value in three.
                share(once, self.met)
            }
            Value::Known(value) => value,
        }
    }
}

/// Adds to a sum and keeps what rounding takes ("Rundungsfehleranalyse einiger Verfahren zur Summation", Neumaier 1974).
fn plus((sum, lost): (f64, f64), value: f64) -> (f64, f64) {
    let total = sum + value;
    let taken = if sum.abs() >= value.abs() { (sum - total) + value } else { (value - total) + sum };
    (total, lost + taken)
}

fn verdict(
    node: &Judgement,
    seen: &RulesetState,
    rows: u64,
    results: &[(u64, Option<f64>)],
) -> Result<(bool, Option<f64>)> {
    Ok(match node {
        Judgement::Fixed(holds) => (*holds, None),
        Judgement::Value(value, condition) => {
            let number = match value {
                Value::Known(number) => *number,
                Value::Rows(metric)
                | Value::Share(metric)
                | Value::Sum(metric)
                | Value::Mean(metric)
                | Value::Deviation(metric)
                | Value::Distinct(metric)
                | Value::Unique(metric) => seen.states[*metric].read(*value),
            };
            (meets(number, condition), Some(number))
        }
        Judgement::Query(index, condition, threshold) => {
            let Some((found, first)) = results.get(*index) else {
                return Err(Error::new(Code::INTERNAL, "the result of a rule's query is missing"));
            };
            let share = if rows == 0 { 1.0 } else { *found as f64 / rows as f64 };
            match (condition, threshold) {
                (Some(condition), _) => (first.is_some_and(|first| meets(first, condition)), *first),
                (None, Some(threshold)) => (meets(share, threshold), Some(share)),
                (None, None) => (*found == rows, Some(share)),
            }
        }
        Judgement::And(nodes) => {
            let all: Result<Vec<_>> = nodes.iter().map(|node| verdict(node, seen, rows, results)).collect();
            (all?.iter().all(|(holds, _)| *holds), None)
        }
        Judgement::Or(nodes) => {
            let all: Result<Vec<_>> = nodes.iter().map(|node| verdict(node, seen, rows, results)).collect();
            (all?.iter().any(|(holds, _)| *holds), None)
        }
    })
}

/// Whether a number meets a condition; `between` leaves out both ends.
fn meets(value: f64, condition: &Condition) -> bool {
    let numbers: Vec<f64> = condition
        .operands
        .iter()
        .filter_map(|operand| match operand {
            Operand::Number(text) => text.parse().ok(),
            _ => None,
        })
        .collect();
    let first = numbers.first().copied().unwrap_or(f64::NAN);
    let last = numbers.last().copied().unwrap_or(f64::NAN);
    match condition.comparison {
        Comparison::Equal => value == first,
        Comparison::NotEqual => value != first,
        Comparison::Less => value < first,
        Comparison::LessOrEqual => value <= first,
        Comparison::Greater => value > first,
        Comparison::GreaterOrEqual => value >= first,
        Comparison::Between => value > first && value < last,
        Comparison::NotBetween => value <= first || value >= last,
        Comparison::In => numbers.contains(&value),
        Comparison::NotIn => !numbers.contains(&value),
        Comparison::Matches | Comparison::NotMatches => false,
    }
}

fn failed(error: datafusion::arrow::error::ArrowError) -> Error {
    Error::new(Code::INTERNAL, "could not evaluate a rule").because(error)
}
