//! What commands print for other programs.

use crate::project::Project;

#[test]
fn csv_holds_nested_values_as_json() {
    let project = Project::new("");
    let sql = "SELECT * FROM (VALUES (1, make_array('a', 'b,\"c\"'), named_struct('x', 1.5)), (2, NULL, NULL)) AS t (n, list, struct)";
    let printed = project.call(&["sql", "--csv", sql]).exits(0).out;
    assert_eq!(
        printed,
        "n,list,struct\n1,\"[\"\"a\"\",\"\"b,\\\"\"c\\\"\"\"\"]\",\"{\"\"x\"\":1.5}\"\n2,,\n"
    );
}
