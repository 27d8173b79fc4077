//! Advice about the layout of tables, from what they hold and which queries were asked.

mod facts;
mod rules;

use catchment_core::{Error, Result, TableName};
use serde::Serialize;

use crate::run::Workspace;
use rules::Rules;

/// One piece of advice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// The table.
    pub table: TableName,
    /// What was found, such as `small files`.
    pub finding: &'static str,
    /// The figures that it rests on.
    pub because: String,
    /// What to do: a statement, or a change of the definition.
    pub advice: String,
}

impl Workspace {
    /// Looks at tables, all of the lake when none is named, and at the queries that were recorded.
    ///
    /// # Errors
    /// Returns [`catchment_core::Code::TABLE_UNKNOWN`], and errors of reading tables and the catalog.
    pub async fn advise(&self, tables: &[TableName]) -> Result<Vec<Advice>> {
        let mut names = tables.to_vec();
        if tables.is_empty() {
            let datasets = self.check().await.datasets;
            for name in self.lake.list().await?.into_iter().filter(|name| !name.is_quarantine()) {
                if !self.is_foreign(&name, &datasets).await {
                    names.push(name);
                }
            }
        }
        let queries = self.store.queries(usize::MAX)?;
        let rules = Rules { target_bytes: self.project.config.config.maintenance.target_bytes()? as u64 };
        let (mut advice, mut errors) = (Vec::new(), Vec::new());
        for name in names {
            match self.facts(&name, &queries).await {
                Ok(facts) => advice.extend(rules.of(&facts).into_iter().map(|found| Advice {
                    table: name.clone(),
                    finding: found.finding,
                    because: found.because,
                    advice: found.advice,
                })),
                Err(error) => errors.push(error),
            }
        }
        Error::join(errors)?;
        Ok(advice)
    }
}
