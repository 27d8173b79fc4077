//! The functions that rewritten queries call. Their names begin with `__window`, which no name of a user does.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, ListArray, TimestampMicrosecondArray,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{DataFusionError, Result, ScalarValue, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::{CLOSED, WindowShape};

/// The windows of a batch: those that end behind the first time and not behind the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Closed {
    /// Windows that end here or before were closed by earlier batches.
    pub behind: i64,
    /// Windows that end here or before are closed by this batch.
    pub until: i64,
}

impl Closed {
    /// Every window: a batch query sees all of time.
    pub const ALL: Closed = Closed { behind: i64::MIN, until: i64::MAX };
}

/// The function that lets the windows of a batch through. A window without a time is in no batch.
#[must_use]
pub fn closed_function(closed: Closed) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(WindowFunction::new(Kind::Closed(closed))))
}

/// The function that gives a time so many microseconds later.
pub(crate) fn shift_function() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(WindowFunction::new(Kind::Shift)))
}

/// All functions, for a query that sees all of time.
pub(crate) fn functions() -> impl Iterator<Item = Arc<ScalarUDF>> {
    [
        Kind::Tumble,
        Kind::Hop,
        Kind::Cumulate,
        Kind::Session,
        Kind::Stagger,
        Kind::Floor,
        Kind::Shift,
        Kind::Closed(Closed::ALL),
    ]
    .into_iter()
    .map(|kind| Arc::new(ScalarUDF::from(WindowFunction::new(kind))))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// Where the window begins: `(time, size, offset)`.
    Tumble,
    /// Where the windows begin: `(time, slide, size, offset)`.
    Hop,
    /// Where the windows end: `(time, step, size, offset)`.
    Cumulate,
    /// The time of an event in a session: `(time, gap)`.
    Session,
    /// The time of an event in a staggered window: `(time, size)`.
    Stagger,
    /// As `Tumble`, of what is no event's time.
    Floor,
    /// Another time, so many microseconds later: `(time, micros)`.
    Shift,
    /// Whether the window that ends here belongs to the batch: `(end)`.
    Closed(Closed),
}

#[derive(Debug)]
struct WindowFunction {
    kind: Kind,
    signature: Signature,
}

impl PartialEq for WindowFunction {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

impl Eq for WindowFunction {}

impl Hash for WindowFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind.hash(state);
    }
}

impl WindowFunction {
    fn new(kind: Kind) -> Self {
        Self { kind, signature: Signature::user_defined(Volatility::Immutable) }
    }

    fn numbers(args: &ScalarFunctionArgs) -> Result<Vec<i64>> {
        args.args[1..]
            .iter()
            .map(|arg| match arg {
                ColumnarValue::Scalar(ScalarValue::Int64(Some(number))) => Ok(*number),
                other => plan_err!("a window's length is no number: {other:?}"),
            })
            .collect()
    }
}

impl ScalarUDFImpl for WindowFunction {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Tumble => "__window_tumble",
            Kind::Hop => "__window_hop",
            Kind::Cumulate => "__window_cumulate",
            Kind::Session => "__window_session",
            Kind::Stagger => "__window_stagger",
            Kind::Floor => "__window_floor",
            Kind::Shift => "__window_shift",
            Kind::Closed(_) => CLOSED,
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let time = match types.first() {
            Some(DataType::Timestamp(_, zone)) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
            Some(DataType::Date32 | DataType::Date64 | DataType::Null) => {
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            Some(other) => {
                return plan_err!(
                    "a window needs a timestamp, and its first argument is {other}: cast it to TIMESTAMP"
                );
            }
            None => return plan_err!("a window needs a timestamp"),
        };
        Ok(std::iter::once(time).chain(types[1..].iter().map(|_| DataType::Int64)).collect())
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::Tumble | Kind::Session | Kind::Stagger | Kind::Floor | Kind::Shift => types[0].clone(),
            Kind::Hop | Kind::Cumulate => DataType::List(item(&types[0])),
            Kind::Closed(_) => DataType::Boolean,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let numbers = Self::numbers(&args)?;
        let times = args.args[0].to_array(args.number_rows)?;
        let kind = times.data_type().clone();
        let Some(micros) = times.as_primitive_opt::<TimestampMicrosecondType>() else {
            return Err(DataFusionError::Internal(format!("a window's time is {kind}")));
        };
        let with_zone = |array: TimestampMicrosecondArray| match &kind {
            DataType::Timestamp(_, zone) => array.with_timezone_opt(zone.clone()),
            _ => array,
        };
        let each = |to: &dyn Fn(i64) -> i64| {
            Arc::new(with_zone(micros.unary::<_, TimestampMicrosecondType>(to))) as ArrayRef
        };
        let many = |shape: WindowShape, starts: bool| {
            let (mut values, mut lengths) = (Vec::new(), Vec::with_capacity(micros.len()));
            for time in micros {
                let before = values.len();
                values.extend(
                    time.into_iter()
                        .flat_map(|time| shape.windows(time))
                        .map(|(start, end)| if starts { start } else { end }),
                );
                lengths.push(values.len() - before);
            }
            let values = Arc::new(with_zone(TimestampMicrosecondArray::from(values)));
            let offsets = OffsetBuffer::from_lengths(lengths);
            ListArray::try_new(item(&kind), offsets, values, None).map(|list| Arc::new(list) as ArrayRef)
        };
        let array = match (self.kind, numbers.as_slice()) {
            (Kind::Tumble | Kind::Floor, [size, offset]) => each(&|time| super::floor(time, *size, *offset)),
            (Kind::Session | Kind::Stagger, [_]) => each(&|time| time),
            (Kind::Shift, [micros]) => each(&|time| time.saturating_add(*micros)),
            (Kind::Hop, [slide, size, offset]) => {
                many(WindowShape::Hop { slide: *slide, size: *size, offset: *offset }, true)?
            }
            (Kind::Cumulate, [step, size, offset]) => {
                many(WindowShape::Cumulate { step: *step, size: *size, offset: *offset }, false)?
            }
            (Kind::Closed(closed), []) => Arc::new(
                micros
                    .iter()
                    .map(|end| Some(end.is_some_and(|end| closed.behind < end && end <= closed.until)))
                    .collect::<BooleanArray>(),
            ),
            _ => {
                return Err(DataFusionError::Internal(format!(
                    "{} got {} lengths",
                    self.name(),
                    numbers.len()
                )));
            }
        };
        Ok(ColumnarValue::Array(array))
    }
}

fn item(time: &DataType) -> FieldRef {
    Arc::new(Field::new_list_field(time.clone(), true))
}
