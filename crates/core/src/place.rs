//! Where in a project file something stands, and how it is shown to a person.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A place in a project file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The file, relative to the project where it lies inside it.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// The column in characters, from 1.
    pub column: u64,
    /// How many characters are meant, at least 1.
    pub length: u64,
    /// The text of that line.
    pub text: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Draws the line and a caret below the place, indented for a terminal.
///
/// ```
/// use catchment_core::{Place, caret};
/// let place = Place { file: "a.sql".into(), line: 3, column: 8, length: 4, text: "SELECT dela FROM t".into() };
/// assert_eq!(caret(&place), "  --> a.sql:3:8\n  3 | SELECT dela FROM t\n    |        ^^^^");
/// ```
#[must_use]
pub fn caret(place: &Place) -> String {
    let number = place.line.to_string();
    let column = usize::try_from(place.column.saturating_sub(1)).unwrap_or(0);
    // Tabs stay tabs so that the caret lands under its word whatever the terminal's tab width.
    let lead: String = place.text.chars().take(column).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let rest = place.text.chars().count().saturating_sub(column).max(1);
    let length = usize::try_from(place.length).unwrap_or(1).clamp(1, rest);
    format!(
        "{pad}--> {place}\n  {number} | {text}\n{pad}  | {lead}{carets}",
        pad = " ".repeat(number.len() + 1),
        text = place.text,
        carets = "^".repeat(length),
    )
}
