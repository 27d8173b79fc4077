//! What a changed query can keep of what was kept for it before.

use std::collections::BTreeSet;

use datafusion::arrow::datatypes::DataType;

use super::{BaseColumn, Definition, Use, UsedColumn};

/// What a changed query keeps. What it does not keep is as if all rows before had had nulls there, since their relations did not
/// have the columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// For each aggregate, which one of before it is.
    pub aggregates: Vec<Option<usize>>,
    /// For each result of a query without an aggregate, which one of before it is.
    pub results: Vec<Option<usize>>,
    /// Whether rows and states are those of before as they are, types aside.
    pub all: bool,
}

impl Definition {
    /// What is kept when the query was `before`, so that all is as if it had always been as it is.
    ///
    /// # Errors
    /// Returns what cannot be kept, for people: a clause that follows "since".
    pub fn kept_from(&self, before: &Self) -> Result<Kept, String> {
        if !self.is_known() || !before.is_known() {
            return Err("it is not known of such a query what can be kept of it".to_owned());
        }
        if self.rows != before.rows {
            return Err("it reads other relations, or joins or chooses rows otherwise".to_owned());
        }
        if self.groups != before.groups {
            return Err("it groups by something else".to_owned());
        }
        let widened = self.widened(before)?;
        let new = self.new_columns(before);
        let aggregates = self.kept_aggregates(before, &widened, &new)?;
        let (mut results, mut all) = (Vec::new(), self.aggregates.len() == before.aggregates.len());
        all = all && aggregates.iter().enumerate().all(|(index, kept)| *kept == Some(index));
        if self.groups.is_none() {
            results = self.kept_results(before, &new)?;
            // Which of several rows of one key stays is told by all columns.
            if self.multiplies && self.results != before.results {
                return Err("a row may come to several by its join, of which one stayed".to_owned());
            }
        }
        all = all && self.results == before.results;
        Ok(Kept { aggregates, results, all })
    }

    /// Whether a result, by its name, is what it was.
    #[must_use]
    pub fn has_result_of(&self, before: &Self, name: &str) -> bool {
        let result =
            |of: &Self| of.results.iter().find(|result| result.name == name).map(|found| found.told.clone());
        result(self) == result(before)
    }

    /// The columns whose types have become wider.
    fn widened(&self, before: &Self) -> Result<BTreeSet<BaseColumn>, String> {
        let mut widened = BTreeSet::new();
        for (key, input) in &before.inputs {
            for (column, was) in &input.used {
                let now = self.inputs.get(key).and_then(|input| input.used.get(column));
                // One that nothing looks at any more may be whatever it is.
                let Some(now) = now.filter(|now| now.kind != was.kind) else { continue };
                if !may_widen(was, now) {
                    return Err(format!(
                        "column \"{column}\" of {} was {} and is {}",
                        input.input.name, was.kind, now.kind
                    ));
                }
                widened.insert((key.clone(), column.clone()));
            }
        }
        Ok(widened)
    }

    /// The columns that the relations did not have before, and that are null in the rows that were read then.
    fn new_columns(&self, before: &Self) -> BTreeSet<BaseColumn> {
        let mut new = BTreeSet::new();
        for (key, input) in self.inputs.iter().filter(|(_, input)| input.input.grows) {
            let known = before.inputs.get(key).map(|input| &input.columns);
            let columns = input.columns.iter();
            let columns = columns.filter(|column| known.is_none_or(|known| !known.contains(*column)));
            new.extend(columns.map(|column| (key.clone(), column.clone())));
        }
        new
    }

    fn kept_aggregates(
        &self,
        before: &Self,
        widened: &BTreeSet<BaseColumn>,
        new: &BTreeSet<BaseColumn>,
    ) -> Result<Vec<Option<usize>>, String> {
        let mut kept = Vec::new();
        for aggregate in &self.aggregates {
            let known = before.aggregates.iter().position(|known| known.told == aggregate.told);
            let columns = aggregate.passes_nulls.as_ref();
            let is_new = columns.is_some_and(|columns| columns.is_subset(new));
            if known.is_none() && !is_new {
                return Err(format!(
                    "{} was not kept of the rows that were read before",
                    plain(&aggregate.told.text)
                ));
            }
            // Its state is made of hashes, which are others for another type.
            if aggregate.told.text.contains("approx_distinct") && !widened.is_empty() {
                return Err(format!("{} cannot be kept when types change", plain(&aggregate.told.text)));
            }
            kept.push(known);
        }
        Ok(kept)
    }

    fn kept_results(&self, before: &Self, new: &BTreeSet<BaseColumn>) -> Result<Vec<Option<usize>>, String> {
        let mut kept = Vec::new();
        for result in &self.results {
            let known = before.results.iter().position(|known| known.told == result.told);
            if known.is_none() && !result.column.as_ref().is_some_and(|column| new.contains(column)) {
                return Err(format!(
                    "column \"{}\" was not kept of the rows that were read before",
                    result.name
                ));
            }
            kept.push(known);
        }
        Ok(kept)
    }
}

/// An expression without the keys of relations.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('$') {
        plain.push_str(before);
        rest = match behind.split_once('.') {
            Some((key, behind)) if key.bytes().all(|byte| byte.is_ascii_digit()) => behind,
            _ => behind,
        };
    }
    plain + rest
}

/// Whether what was made of a column stays as it is when its type is another.
fn may_widen(was: &UsedColumn, now: &UsedColumn) -> bool {
    use DataType::{Int8, Int16, Int32, Int64};
    let (Ok(from), Ok(to)) = (was.kind.parse::<DataType>(), now.kind.parse::<DataType>()) else {
        return false;
    };
    let is_whole = |kind: &DataType| matches!(kind, Int8 | Int16 | Int32 | Int64);
    // Whole numbers are divided otherwise and wrap round elsewhere, finer ones are rounded elsewhere even to be compared.
    let most = if is_whole(&from) { Use::Compared } else { Use::Kept };
    is_whole(&from) == is_whole(&to) && catchment_lake::widens(&from, &to) && was.how.max(now.how) <= most
}
