//! Windows as they are written: `TUMBLE(ts, size)` and its like, and the calls that tell their bounds.

use catchment_core::{Code, Error, Result};
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectNamePart, SelectItem,
    Spanned,
};

use super::{MOST_WINDOWS, WINDOW_END, WINDOW_START, WindowShape, interval};
use crate::query::normal;
use crate::text::SqlText;

/// A window as written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Window {
    pub(super) shape: WindowShape,
    pub(super) time: Expr,
    /// The call, as `*_START` and `*_END` repeat it.
    arguments: Vec<Expr>,
    family: Family,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Tumble,
    Hop,
    Cumulate,
    /// Spark's `window(ts, size [, slide [, offset]])`, a column with a start and an end.
    Window,
    Session,
    /// Spark's `session_window(ts, gap)`.
    SessionWindow,
    Stagger,
}

impl Family {
    /// The column that stands for the window as a whole, in Spark's forms.
    fn column(self) -> Option<&'static str> {
        match self {
            Self::Window => Some("window"),
            Self::SessionWindow => Some("session_window"),
            _ => None,
        }
    }
}

pub(super) const FAMILIES: &[(&str, Family)] = &[
    ("tumble", Family::Tumble),
    ("hop", Family::Hop),
    ("cumulate", Family::Cumulate),
    ("window", Family::Window),
    ("session", Family::Session),
    ("session_window", Family::SessionWindow),
    ("stagger", Family::Stagger),
];

impl Window {
    pub(super) fn parse(expr: &Expr, text: &SqlText) -> Result<Option<Self>> {
        let Expr::Function(function) = expr else { return Ok(None) };
        let name = function_name(function);
        let Some((_, family)) = FAMILIES.iter().find(|(known, _)| *known == name) else { return Ok(None) };
        let arguments = arguments(function);
        let Some((time, lengths)) = arguments.split_first() else { return Ok(None) };
        let shape = shape(*family, lengths).map_err(|error| error.at(text.place(expr.span())))?;
        Ok(Some(Self { shape, time: time.clone(), arguments: arguments.clone(), family: *family }))
    }

    /// The column that a call stands for: a bound of this window.
    pub(super) fn bound(&self, expr: &Expr) -> Option<&'static str> {
        match expr {
            Expr::Function(function) => {
                let name = function_name(function);
                let (family, bound) = name.rsplit_once('_')?;
                let (_, family) = FAMILIES.iter().find(|(known, _)| *known == family)?;
                let column = if bound == "start" { WINDOW_START } else { WINDOW_END };
                let is_mine = *family == self.family && arguments(function) == self.arguments;
                (is_mine && ["start", "end"].contains(&bound)).then_some(column)
            }
            Expr::CompoundIdentifier(parts) => {
                let whole = self.family.column()?;
                match parts.iter().map(normal).collect::<Vec<_>>().as_slice() {
                    [window, bound] if window == whole && bound == "start" => Some(WINDOW_START),
                    [window, bound] if window == whole && bound == "end" => Some(WINDOW_END),
                    _ => None,
                }
            }
            // `window(...).start`
            Expr::CompoundFieldAccess { root, access_chain } => {
                let call = matches!(root.as_ref(), Expr::Function(function)
                    if self.family.column() == Some(function_name(function).as_str())
                        && arguments(function) == self.arguments);
                match access_chain.iter().map(ToString::to_string).collect::<String>().to_lowercase().as_str()
                {
                    ".start" if call => Some(WINDOW_START),
                    ".end" if call => Some(WINDOW_END),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Whether an expression is the window as a whole, of Spark's forms.
    pub(super) fn is_whole(&self, expr: &Expr) -> bool {
        let Some(whole) = self.family.column() else { return false };
        match expr {
            Expr::Identifier(ident) => normal(ident) == whole,
            Expr::Function(function) => {
                function_name(function) == whole && arguments(function) == self.arguments
            }
            _ => false,
        }
    }

    /// Gives a result that has no name the one that people expect.
    pub(super) fn name(&self, item: &mut SelectItem) {
        let SelectItem::UnnamedExpr(expr) = item else { return };
        let name = match (self.bound(expr), self.is_whole(expr)) {
            (Some(WINDOW_START), _) if self.family.column().is_some() => "start",
            (Some(_), _) if self.family.column().is_some() => "end",
            (Some(WINDOW_START), _) => "window_start",
            (Some(_), _) => "window_end",
            (None, true) => self.family.column().unwrap_or("window"),
            (None, false) => return,
        };
        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::with_quote('"', name) };
    }
}

pub(super) fn shape(family: Family, lengths: &[Expr]) -> Result<WindowShape> {
    let lengths: Vec<i64> = lengths.iter().map(interval::micros).collect::<Result<_>>()?;
    let shape = match (family, lengths.as_slice()) {
        (Family::Tumble | Family::Window, [size]) => WindowShape::Tumble { size: *size, offset: 0 },
        (Family::Session | Family::SessionWindow, [gap]) => WindowShape::Session { gap: *gap },
        (Family::Stagger, [size]) => WindowShape::Stagger { size: *size },
        (Family::Tumble, [size, offset]) => WindowShape::Tumble { size: *size, offset: *offset },
        (Family::Window, [size, slide, rest @ ..]) if rest.len() < 2 => {
            let offset = rest.first().copied().unwrap_or(0);
            match size == slide {
                true => WindowShape::Tumble { size: *size, offset },
                false => WindowShape::Hop { slide: *slide, size: *size, offset },
            }
        }
        (Family::Hop, [slide, size, rest @ ..]) if rest.len() < 2 => {
            WindowShape::Hop { slide: *slide, size: *size, offset: rest.first().copied().unwrap_or(0) }
        }
        (Family::Cumulate, [step, size, rest @ ..]) if rest.len() < 2 => {
            WindowShape::Cumulate { step: *step, size: *size, offset: rest.first().copied().unwrap_or(0) }
        }
        _ => {
            let forms = "TUMBLE(ts, size), HOP(ts, slide, size), CUMULATE(ts, step, size), SESSION(ts, gap), STAGGER(ts, size), window(ts, size [, slide])";
            return Err(Error::new(Code::SQL_SYNTAX, "a window has the wrong number of lengths").hint(forms));
        }
    };
    let (step, size) = match shape {
        WindowShape::Tumble { size, .. } => (size, size),
        WindowShape::Hop { slide, size, .. } => (slide, size),
        WindowShape::Cumulate { step, size, .. } => (step, size),
        WindowShape::Session { gap: length } | WindowShape::Stagger { size: length } => (length, length),
        // Nobody writes it: it is what a join's condition says.
        WindowShape::Meeting { .. } => (1, 1),
    };
    if [step, size].iter().any(|length| *length > interval::LONGEST) {
        return Err(Error::new(Code::SQL_SYNTAX, "a window is at most a hundred years long"));
    }
    if step <= 0 || size <= 0 {
        return Err(Error::new(Code::SQL_SYNTAX, "a window is at least a microsecond long"));
    }
    if size / step > MOST_WINDOWS {
        return Err(Error::new(
            Code::NOT_SUPPORTED,
            format!("a row would belong to {} windows; {MOST_WINDOWS} are the most", size / step),
        ));
    }
    if matches!(shape, WindowShape::Cumulate { .. }) && size % step != 0 {
        return Err(Error::new(Code::SQL_SYNTAX, "the size of CUMULATE is a multiple of its step"));
    }
    Ok(shape)
}

pub(super) fn function_name(function: &Function) -> String {
    match function.name.0.as_slice() {
        [ObjectNamePart::Identifier(name)] if function.over.is_none() => normal(name),
        _ => String::new(),
    }
}

pub(super) fn arguments(function: &Function) -> Vec<Expr> {
    match &function.args {
        FunctionArguments::List(list) => list.args.iter().filter_map(plain_argument).collect(),
        _ => Vec::new(),
    }
}

pub(super) fn plain_argument(argument: &FunctionArg) -> Option<Expr> {
    match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    }
}

pub(super) fn column(name: &str) -> Expr {
    Expr::Identifier(Ident::with_quote('"', name))
}
