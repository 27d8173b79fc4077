//! `bit_xor(DISTINCT ...)` in groups beside other aggregates: the engine would compute it without `DISTINCT` there, and fails
//! when it puts the parts together.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::Result;
use datafusion::functions_aggregate::bit_and_or_xor::bit_xor_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF, Signature,
};

/// The engine's own function, one accumulator for each group where it is `DISTINCT`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct BitXor(Arc<AggregateUDF>);

/// `bit_xor`.
pub(crate) fn bit_xor() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::from(BitXor(bit_xor_udaf())))
}

impl AggregateUDFImpl for BitXor {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.0.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.0.accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.0.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        !args.is_distinct && self.0.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        self.0.create_groups_accumulator(args)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.0.reverse_udf()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }
}
