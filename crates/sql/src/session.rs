//! Where DataFusion sessions are made: memory, threads, functions, and the moment a query runs at.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use chrono::DateTime;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::{
    CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider, TableProvider,
};
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{
    FunctionRegistry, SendableRecordBatchStream, SessionState, SessionStateBuilder, TaskContext,
};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan, ScalarUDF};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr, execute_stream, execute_stream_partitioned};
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement as PlannerStatement;
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, ExprWithAlias as SQLExprWithAlias, Ident, Statement, visit_expressions,
    visit_expressions_mut,
};
use datafusion::sql::sqlparser::tokenizer::Span;
use object_store::ObjectStore;
use url::Url;

use crate::bit_xor::bit_xor;
use crate::distinct_first::DistinctFirst;
use crate::functions;
use crate::query::BoundQuery;
use crate::text::SqlText;
use crate::windows;

const CATALOG: &str = "catchment";
const SCHEMA: &str = "relations";

/// What all sessions of a process share.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// Memory that operators may hold before they spill, in bytes.
    pub memory_bytes: usize,
    /// Partitions that run at the same time.
    pub threads: usize,
    /// Where operators spill to.
    pub spill_folder: PathBuf,
}

/// The moment and chance of a query, fixed by its plan so that it can be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// What `now()` says, in microseconds since the Unix epoch.
    pub micros: i64,
    /// What `random()` and `uuid()` start from.
    pub seed: u64,
}

/// Makes planners that share memory and threads.
#[derive(Debug, Clone)]
pub struct Sessions {
    runtime: Arc<RuntimeEnv>,
    threads: usize,
    spill_folder: PathBuf,
}

impl Sessions {
    /// Sets the shared limits.
    ///
    /// # Errors
    /// Returns [`Code::CONFIG_INVALID`] when the spill folder cannot be used.
    pub fn new(options: &SessionOptions) -> Result<Self> {
        const REPORTED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4);
        let pool = TrackConsumersPool::new(FairSpillPool::new(options.memory_bytes), REPORTED);
        let disk = DiskManagerBuilder::default()
            .with_mode(DiskManagerMode::Directories(vec![options.spill_folder.clone()]));
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(pool))
            .with_disk_manager_builder(disk)
            .build_arc()
            .map_err(|error| {
                Error::new(
                    Code::CONFIG_INVALID,
                    format!("could not use spill folder {:?}", options.spill_folder),
                )
                .because(error)
            })?;
        Ok(Self { runtime, threads: options.threads, spill_folder: options.spill_folder.clone() })
    }

    /// Where what does not fit in memory goes.
    #[must_use]
    pub fn spill_folder(&self) -> &std::path::Path {
        &self.spill_folder
    }

    /// Lets queries read from an object store, by the URL of its bucket.
    pub fn register_store(&self, bucket: &Url, store: Arc<dyn ObjectStore>) {
        self.runtime.register_object_store(bucket, store);
    }

    /// Makes a planner for one query at one moment.
    ///
    /// # Errors
    /// Returns [`Code::INTERNAL`] when the engine refuses our own settings.
    pub fn planner(&self, moment: Moment) -> Result<Planner> {
        let failed = |error| Error::new(Code::INTERNAL, "could not make a session").because(error);
        let mut config = SessionConfig::new()
            .with_target_partitions(self.threads)
            .with_default_catalog_and_schema(CATALOG, SCHEMA)
            .with_create_default_catalog_and_schema(false);
        let options = config.options_mut();
        options.sql_parser.collect_spans = true;
        options.sql_parser.map_string_types_to_utf8view = false;
        // Enough for the footer and the page index of most files: one request instead of three.
        options.execution.parquet.metadata_size_hint = Some(512 << 10);
        options.execution.time_zone = Some("UTC".to_owned());
        // With dictionary columns on one side these make hash joins fail inside the engine.
        options.optimizer.hash_join_inlist_pushdown_max_size = 0;
        options.optimizer.hash_join_inlist_pushdown_max_distinct_values = 0;
        let relations = Arc::new(MemorySchemaProvider::new());
        let catalog = MemoryCatalogProvider::new();
        catalog.register_schema(SCHEMA, Arc::clone(&relations) as Arc<dyn SchemaProvider>).map_err(failed)?;
        let mut state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(Arc::clone(&self.runtime))
            .with_default_features()
            .with_optimizer_rule(Arc::new(DistinctFirst))
            .build();
        state.catalog_list().register_catalog(CATALOG.to_owned(), Arc::new(catalog));
        for function in functions::of_moment(moment.seed).into_iter().chain(windows::functions()) {
            state.register_udf(function).map_err(failed)?;
        }
        state.register_udwf(windows::stagger_function()).map_err(failed)?;
        state.register_udaf(bit_xor()).map_err(failed)?;
        state.execution_props_mut().query_execution_start_time =
            DateTime::from_timestamp_micros(moment.micros);
        Ok(Planner { state, relations })
    }
}

/// Plans and runs one query.
#[derive(Debug)]
pub struct Planner {
    state: SessionState,
    relations: Arc<MemorySchemaProvider>,
}

impl Planner {
    pub(crate) fn state(&self) -> &SessionState {
        &self.state
    }

    /// Binds a table to the key of a relation.
    ///
    /// # Errors
    /// Returns [`Code::INTERNAL`] when the key is bound already.
    pub fn bind(&self, key: &str, table: Arc<dyn TableProvider>) -> Result<()> {
        self.relations.register_table(key.to_owned(), table).map(|_| ()).map_err(|error| {
            Error::new(Code::INTERNAL, format!("could not bind relation {key}")).because(error)
        })
    }

    /// Adds a function that this planner alone knows.
    ///
    /// # Errors
    /// Returns [`Code::INTERNAL`] when it cannot be added.
    pub fn add_function(&mut self, function: Arc<ScalarUDF>) -> Result<()> {
        self.state
            .register_udf(function)
            .map(|_| ())
            .map_err(|error| Error::new(Code::INTERNAL, "could not add a function").because(error))
    }

    /// Plans a query whose relations are bound.
    ///
    /// # Errors
    /// Returns errors of names and types with their place in `text`.
    pub async fn plan(&self, text: &SqlText, query: &BoundQuery) -> Result<LogicalPlan> {
        let statement = Statement::Query(query.query.clone());
        self.state
            .statement_to_plan(PlannerStatement::Statement(Box::new(statement)))
            .await
            .map_err(|error| text.plan_error(&error, query.span))
    }

    /// Checks the types of a plan: some errors show only when the plan is analysed.
    ///
    /// # Errors
    /// Returns errors of types with their place in `text`, where the engine knows it.
    pub fn check(&self, text: &SqlText, query: &BoundQuery, plan: &LogicalPlan) -> Result<LogicalPlan> {
        self.state.optimize(plan).map_err(|error| text.plan_error(&error, query.span))
    }

    /// Plans an expression over single rows of a schema.
    ///
    /// # Errors
    /// Returns errors of names and types with their place in `text`.
    pub fn expression(
        &self,
        text: &SqlText,
        expr: &SqlExpr,
        span: Span,
        schema: &SchemaRef,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let fields = DFSchema::try_from(Arc::clone(schema))
            .map_err(|error| Error::new(Code::INTERNAL, "could not read a schema").because(error))?;
        let written = SQLExprWithAlias { expr: expr.clone(), alias: None };
        let logical = self
            .state
            .create_logical_expr_from_sql_expr(written, &fields)
            .map_err(|error| text.plan_error(&error, span))?;
        let aggregates =
            contains(&logical, |expr| matches!(expr, Expr::AggregateFunction(_) | Expr::WindowFunction(_)));
        let queries = contains(&logical, |expr| {
            matches!(expr, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_))
        });
        let refused = [
            (aggregates, "a condition looks at one row at a time"),
            (queries, "a condition cannot hold a query"),
        ];
        if let Some((_, why)) = refused.iter().find(|(found, _)| *found) {
            return Err(Error::new(Code::NOT_SUPPORTED, *why).at(text.place(span)));
        }
        self.simplified(logical, &fields).map_err(|error| text.plan_error(&error, span))
    }

    /// An expression as a logical plan has it, over single rows of a schema.
    ///
    /// # Errors
    /// Returns errors of names and types.
    pub fn logical_expression(&self, expr: &SqlExpr, schema: &SchemaRef) -> Result<Expr> {
        let fields = DFSchema::try_from(Arc::clone(schema))
            .map_err(|error| Error::new(Code::INTERNAL, "could not read a schema").because(error))?;
        let mut expr = expr.clone();
        // The relation's name before a column says nothing here.
        let _ = visit_expressions_mut(&mut expr, |part: &mut SqlExpr| {
            if let SqlExpr::CompoundIdentifier(parts) = part {
                let is_column = |ident: &Ident| schema.field_with_name(&crate::query::normal(ident)).is_ok();
                let first = parts.iter().position(is_column).unwrap_or(0);
                parts.drain(..first);
                if let [only] = parts.as_slice() {
                    *part = SqlExpr::Identifier(only.clone());
                }
            }
            ControlFlow::<()>::Continue(())
        });
        let known: BTreeSet<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        require_columns(&expr, &known)?;
        let written = SQLExprWithAlias { expr, alias: None };
        self.state.create_logical_expr_from_sql_expr(written, &fields).map_err(query_error)
    }

    /// Plans an expression of a logical plan over single rows of a schema.
    ///
    /// # Errors
    /// Returns errors of names and types.
    pub fn physical_expression(&self, expr: &Expr, schema: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
        let fields = DFSchema::try_from(Arc::clone(schema))
            .map_err(|error| Error::new(Code::INTERNAL, "could not read a schema").because(error))?;
        self.simplified(expr.clone(), &fields).map_err(query_error)
    }

    /// Some functions, such as coalesce and now, exist only until an expression is simplified.
    fn simplified(&self, logical: Expr, fields: &DFSchema) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
        let context = SimplifyContext::builder()
            .with_schema(Arc::new(fields.clone()))
            .with_config_options(Arc::clone(self.state.config_options()))
            .with_query_execution_start_time(self.state.execution_props().query_execution_start_time)
            .build();
        let simplifier = ExprSimplifier::new(context);
        let logical = simplifier.simplify(simplifier.coerce(logical, fields)?)?;
        self.state.create_physical_expr(logical, fields)
    }

    /// Plans a condition over single rows of a schema.
    ///
    /// # Errors
    /// As [`Planner::expression`], and [`Code::SQL_TYPE`] for an expression that is no condition.
    pub fn condition(
        &self,
        text: &SqlText,
        expr: &SqlExpr,
        span: Span,
        schema: &SchemaRef,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let physical = self.expression(text, expr, span, schema)?;
        let kind = physical.data_type(schema).map_err(|error| text.plan_error(&error, span))?;
        if kind != DataType::Boolean {
            return Err(Error::new(
                Code::SQL_TYPE,
                format!("the expression gives {kind}, not true or false"),
            )
            .at(text.place(span)));
        }
        Ok(physical)
    }

    /// Turns a plan into one that runs.
    ///
    /// # Errors
    /// Returns [`Code::SQL_PLAN`] when the engine cannot run it.
    pub async fn physical(&self, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
        self.state
            .create_physical_plan(plan)
            .await
            .map_err(|error| execution_error(Error::new(Code::SQL_PLAN, "could not plan a query"), error))
    }

    /// Runs a plan as one stream of rows.
    ///
    /// # Errors
    /// Returns the errors of starting it.
    pub fn run(&self, plan: Arc<dyn ExecutionPlan>) -> Result<SendableRecordBatchStream> {
        execute_stream(plan, self.task()).map_err(query_error)
    }

    /// Runs a plan as streams that should be read at the same time.
    ///
    /// # Errors
    /// Returns the errors of starting it.
    pub fn run_partitioned(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Vec<SendableRecordBatchStream>> {
        execute_stream_partitioned(plan, self.task()).map_err(query_error)
    }

    fn task(&self) -> Arc<TaskContext> {
        Arc::new(TaskContext::from(&self.state))
    }
}

fn contains(expr: &Expr, wanted: impl Fn(&Expr) -> bool) -> bool {
    expr.exists(|expr| Ok(wanted(expr))).unwrap_or(true)
}

/// Turns an error of a running query into ours; an error of ours that went through the engine comes out as it was.
#[must_use]
pub fn query_error(error: DataFusionError) -> Error {
    execution_error(Error::new(Code::SQL_EXECUTION, "query failed"), error)
}

fn execution_error(otherwise: Error, error: DataFusionError) -> Error {
    if let Some(ours) = find_ours(&error) {
        return ours.clone();
    }
    match error.find_root() {
        DataFusionError::ResourcesExhausted(text) => {
            let first = text.lines().next().unwrap_or_default().to_owned();
            Error::new(Code::MEMORY, "query reached its memory limit")
                .because(first)
                .hint("raise memory under [engine] in catchment.toml")
        }
        _ => otherwise.because(error.strip_backtrace()),
    }
}

/// The error of ours within an error of the engine, if there is one.
fn find_ours<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(ours) = error.downcast_ref::<Error>() {
            return Some(ours);
        }
        if let Some(DataFusionError::External(inner)) = error.downcast_ref()
            && let Some(ours) = inner.downcast_ref::<Error>()
        {
            return Some(ours);
        }
        next = error.source();
    }
    None
}

/// Makes sure that the columns which an expression names are known.
///
/// # Errors
/// Returns [`Code::COLUMN_UNKNOWN`] for the first that is not.
pub fn require_columns(expr: &SqlExpr, known: &BTreeSet<String>) -> Result<()> {
    let unknown = visit_expressions(expr, |part: &SqlExpr| match part {
        SqlExpr::Identifier(ident) if !known.contains(&crate::query::normal(ident)) => {
            ControlFlow::Break(crate::query::normal(ident))
        }
        _ => ControlFlow::Continue(()),
    });
    match unknown {
        ControlFlow::Break(name) => {
            let columns = known.iter().filter(|name| !name.starts_with('_')).map(String::as_str);
            Err(Error::new(Code::COLUMN_UNKNOWN, format!("no column \"{name}\""))
                .hint(format!("columns: {}", columns.collect::<Vec<_>>().join(", "))))
        }
        ControlFlow::Continue(()) => Ok(()),
    }
}
