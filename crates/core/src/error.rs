//! The one error that crosses crate boundaries: what, who is to blame, whether to try again.

use std::fmt;
use std::sync::Arc;

use crate::{Code, Place};

/// The result of everything that can fail in Catchment.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who can mend an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The project, the query or the data: the user can change it.
    User,
    /// A disk, a network, another system.
    External,
    /// A bug in Catchment.
    Ours,
}

/// Whether the same attempt may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The attempt fails the same way until something is changed.
    Never,
    /// A later attempt may succeed; wait as [`crate::Backoff`] says.
    Backoff,
}

/// An error that names its object and the attempt, with a code that has a page.
///
/// It is one pointer wide. Library errors are wrapped where they happen, with
/// [`Error::because`], so the message always says what was being done.
///
/// ```
/// use catchment_core::{Code, Error};
/// let error = Error::new(Code::TABLE_UNKNOWN, "no table \"raw.flight\"").hint("did you mean \"raw.flights\"?");
/// assert_eq!(error.to_string(), "C2003: no table \"raw.flight\"");
/// ```
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: Code,
    message: String,
    hint: Option<String>,
    place: Option<Place>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    others: Vec<Error>,
}

impl Error {
    /// Makes an error from a code and a message: lowercase, no full stop, object named.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            message: message.into(),
            hint: None,
            place: None,
            source: None,
            others: Vec::new(),
        }))
    }

    /// Joins several errors into one that reports all of them.
    ///
    /// # Errors
    /// Returns the joined error; `Ok` when there is none.
    pub fn join(errors: impl IntoIterator<Item = Error>) -> Result<()> {
        let mut errors = errors.into_iter();
        let Some(mut first) = errors.next() else {
            return Ok(());
        };
        for mut error in errors {
            let more = std::mem::take(&mut error.0.others);
            first.0.others.push(error);
            first.0.others.extend(more);
        }
        Err(first)
    }

    /// Adds the sentence that tells what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds where in a project file the cause stands, unless it is known already.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.0.place.get_or_insert(place);
        self
    }

    /// Forgets the places of this error and of those joined to it, which mean nothing to the user.
    #[must_use]
    pub fn without_place(mut self) -> Self {
        self.0.place = None;
        self.0.others.iter_mut().for_each(|other| other.0.place = None);
        self
    }

    /// Keeps the error below as the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// The code, whose page `catchment explain` prints.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Who can mend it.
    #[must_use]
    pub fn blame(&self) -> Blame {
        self.0.code.blame
    }

    /// Whether to try again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        self.0.code.retry
    }

    /// The message without code, cause and hint.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do, where there is something to say.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Where in a project file the cause stands.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        self.0.place.as_ref()
    }

    /// The chain of causes in one line, outermost first, without repeating a text that contains the next.
    #[must_use]
    pub fn cause_text(&self) -> Option<String> {
        self.0.source.as_deref().map(|source| causes(source)).filter(|text| !text.is_empty())
    }

    /// This error and the ones joined to it.
    pub fn each(&self) -> impl Iterator<Item = &Error> {
        std::iter::once(self).chain(&self.0.others)
    }

    /// Splits an error into the ones that were joined.
    #[must_use]
    pub fn split(mut self) -> Vec<Error> {
        let others = std::mem::take(&mut self.0.others);
        let mut all = vec![self];
        all.extend(others);
        all
    }

    /// One line: code, message and cause. What logs and `system.*` tables keep.
    #[must_use]
    pub fn one_line(&self) -> String {
        match self.cause_text() {
            Some(cause) => format!("{self}: {cause}"),
            None => self.to_string(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code.id, self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.one_line())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// An error and its causes in one line, outermost first, without repeating a text that contains the next.
#[must_use]
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let (mut text, mut next) = (String::new(), Some(error));
    while let Some(cause) = next {
        let line = cause.to_string();
        if !text.contains(&line) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&line);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Error, Result};
    use crate::Code;

    #[test]
    fn an_error_is_one_pointer_wide() {
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }

    #[test]
    fn joined_errors_are_flat_and_keep_their_order() {
        let inner = Error::join(["b", "c"].map(|m| Error::new(Code::CONFIG_INVALID, m))).unwrap_err();
        let all = Error::join([Error::new(Code::CONFIG_INVALID, "a"), inner]).unwrap_err();
        assert_eq!(all.each().map(Error::message).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(all.split().len(), 3);
    }

    #[test]
    fn a_cause_that_repeats_the_next_is_printed_once() {
        let low = Error::new(Code::INPUT_OUTPUT, "disk full");
        let high = Error::new(Code::INPUT_OUTPUT, "could not write").because(low);
        assert_eq!(high.one_line(), "C5001: could not write: C5001: disk full");
    }
}
