//! The SQL dialect: PostgreSQL's, with backticks, named arguments, `STRUCT<>`, `MAP<>` and `VERSION AS OF`.

use std::any::TypeId;

use datafusion::sql::sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};

/// What our SQL looks like to the parser.
#[derive(Debug, Default, Clone, Copy)]
pub struct CatchmentDialect;

const POSTGRESQL: PostgreSqlDialect = PostgreSqlDialect {};

macro_rules! supported {
    ($($name:ident)*) => { $(fn $name(&self) -> bool { true })* };
}

impl Dialect for CatchmentDialect {
    // The parser asks for this type in places; where it does, we want PostgreSQL's way.
    fn dialect(&self) -> TypeId {
        TypeId::of::<PostgreSqlDialect>()
    }

    fn identifier_quote_style(&self, _: &str) -> Option<char> {
        Some('"')
    }

    fn is_delimited_identifier_start(&self, c: char) -> bool {
        c == '"' || c == '`'
    }

    fn is_identifier_start(&self, c: char) -> bool {
        POSTGRESQL.is_identifier_start(c)
    }

    fn is_identifier_part(&self, c: char) -> bool {
        POSTGRESQL.is_identifier_part(c)
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        POSTGRESQL.get_next_precedence(parser)
    }

    fn prec_value(&self, precedence: Precedence) -> u8 {
        POSTGRESQL.prec_value(precedence)
    }

    supported! {
        supports_unicode_string_literal supports_string_escape_constant
        supports_filter_during_aggregation supports_group_by_expr
        allow_extract_custom allow_extract_single_quotes
        supports_explain_with_utility_options supports_bitwise_shift_operators
        supports_nested_comments supports_numeric_literal_underscores
        supports_array_typedef_with_brackets supports_interval_options supports_comma_separated_trim
        supports_struct_literal supports_map_literal_with_angle_brackets supports_dictionary_syntax
        support_map_literal_syntax supports_table_versioning
        supports_window_function_null_treatment_arg supports_window_clause_named_window_reference
        supports_select_wildcard_except supports_select_wildcard_exclude supports_select_wildcard_replace
        supports_values_as_table_factor supports_parens_around_table_factor
    }
}
