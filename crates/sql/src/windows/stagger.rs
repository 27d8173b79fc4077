//! The function that finds where staggered windows begin.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, TimestampMicrosecondType};
use datafusion::common::{DataFusionError, Result, ScalarValue, plan_err};
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{PartitionEvaluator, Signature, Volatility, WindowUDF, WindowUDFImpl};
use datafusion::physical_expr::expressions::Literal;

/// The name of the function: `(time, size) OVER (PARTITION BY keys ORDER BY time)` gives where the window of a row begins.
pub(super) const STAGGER_BEGINS: &str = "__window_stagger_begins";

/// The function for a session.
pub(crate) fn stagger_function() -> Arc<WindowUDF> {
    Arc::new(WindowUDF::from(StaggerBegins { signature: Signature::user_defined(Volatility::Immutable) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct StaggerBegins {
    signature: Signature,
}

impl WindowUDFImpl for StaggerBegins {
    fn name(&self) -> &str {
        STAGGER_BEGINS
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [time @ DataType::Timestamp(..), _] => Ok(vec![time.clone(), DataType::Int64]),
            _ => plan_err!("a staggered window needs a timestamp and a length"),
        }
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        let time = args.get_input_field(0);
        let kind = time.map_or(DataType::Null, |field| field.data_type().clone());
        Ok(Arc::new(Field::new(args.name(), kind, true)))
    }

    fn partition_evaluator(&self, args: PartitionEvaluatorArgs) -> Result<Box<dyn PartitionEvaluator>> {
        let length = args.input_exprs().get(1).and_then(|expr| expr.downcast_ref::<Literal>());
        match length.map(Literal::value) {
            Some(ScalarValue::Int64(Some(size))) => Ok(Box::new(Begins { size: *size })),
            other => plan_err!("the length of a staggered window is no number: {other:?}"),
        }
    }
}

#[derive(Debug)]
struct Begins {
    size: i64,
}

impl PartitionEvaluator for Begins {
    /// The rows of a key come in the order of their times; one without a time is in no window.
    fn evaluate_all(&mut self, values: &[ArrayRef], _: usize) -> Result<ArrayRef> {
        let times = values.first().and_then(|times| times.as_primitive_opt::<TimestampMicrosecondType>());
        let Some(times) = times else {
            return Err(DataFusionError::Internal("a staggered window has no times".to_owned()));
        };
        let mut begins: Option<i64> = None;
        let found = times.iter().map(|time| {
            let time = time?;
            if begins.is_none_or(|begins| time >= begins.saturating_add(self.size)) {
                begins = Some(time);
            }
            begins
        });
        let zone = match times.data_type() {
            DataType::Timestamp(_, zone) => zone.clone(),
            _ => None,
        };
        Ok(Arc::new(found.collect::<TimestampMicrosecondArray>().with_timezone_opt(zone)))
    }
}
