//! `SELECT DISTINCT ON (columns)` over a stream, which means that these columns are unique.

use catchment_core::{Code, Error, Result};
use datafusion::sql::sqlparser::ast::{Distinct, Expr, Ident, SetExpr};

use crate::query::BoundQuery;
use crate::text::SqlText;

impl BoundQuery {
    /// Takes `DISTINCT ON` out of the query and returns its columns, `None` when there is none.
    ///
    /// # Errors
    /// Returns [`Code::NOT_SUPPORTED`] for expressions that are no columns, and for an order: over a stream
    /// the first row in source order stays.
    pub fn take_distinct_on(&mut self, text: &SqlText) -> Result<Option<Vec<String>>> {
        let refuse = |what: &str| Err(Error::new(Code::NOT_SUPPORTED, what).at(text.place(self.span)));
        let SetExpr::Select(select) = self.query.body.as_mut() else { return Ok(None) };
        let Some(Distinct::On(expressions)) = &select.distinct else { return Ok(None) };
        if self.query.order_by.is_some() {
            return refuse(
                "DISTINCT ON over a stream keeps the first row in source order and takes no ORDER BY",
            );
        }
        let name = |ident: &Ident| match ident.quote_style {
            Some(_) => ident.value.clone(),
            None => ident.value.to_lowercase(),
        };
        let columns: Option<Vec<String>> = expressions
            .iter()
            .map(|expression| match expression {
                Expr::Identifier(ident) => Some(name(ident)),
                Expr::CompoundIdentifier(parts) => parts.last().map(name),
                _ => None,
            })
            .collect();
        match columns {
            Some(columns) => {
                select.distinct = None;
                Ok(Some(columns))
            }
            None => refuse("DISTINCT ON over a stream takes columns of the result"),
        }
    }
}
