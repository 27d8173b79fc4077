//! Which dataset reads which: order and cycles, as pure functions.

use std::collections::{BTreeMap, BTreeSet};

use catchment_core::TableName;

/// The datasets that each dataset reads.
pub type Graph = BTreeMap<TableName, BTreeSet<TableName>>;

/// The datasets in an order in which each comes after what it reads, and the cycles found.
///
/// Datasets of a cycle, and those that read them, are not in the order.
#[must_use]
pub fn order(graph: &Graph) -> (Vec<TableName>, Vec<Vec<TableName>>) {
    let mut ordered = Vec::new();
    let mut done: BTreeSet<&TableName> = BTreeSet::new();
    loop {
        let ready: Vec<&TableName> = graph
            .iter()
            .filter(|(name, inputs)| {
                !done.contains(name)
                    && inputs.iter().all(|input| done.contains(input) || !graph.contains_key(input))
            })
            .map(|(name, _)| name)
            .collect();
        if ready.is_empty() {
            break;
        }
        done.extend(&ready);
        ordered.extend(ready.into_iter().cloned());
    }
    let mut cycles: Vec<Vec<TableName>> = Vec::new();
    for start in graph.keys().filter(|name| !done.contains(name)) {
        if cycles.iter().all(|cycle| !cycle.contains(start))
            && let Some(cycle) = cycle_from(graph, start)
        {
            cycles.push(cycle);
        }
    }
    (ordered, cycles)
}

/// The shortest way from a dataset back to itself.
fn cycle_from(graph: &Graph, start: &TableName) -> Option<Vec<TableName>> {
    let mut paths = vec![vec![start.clone()]];
    let mut seen = BTreeSet::new();
    while !paths.is_empty() {
        let mut longer = Vec::new();
        for path in paths {
            for input in path.last().and_then(|last| graph.get(last)).into_iter().flatten() {
                if input == start {
                    return Some(path);
                }
                if seen.insert(input.clone()) {
                    longer.push(path.iter().cloned().chain([input.clone()]).collect());
                }
            }
        }
        paths = longer;
    }
    None
}

#[cfg(test)]
mod tests {
    use catchment_core::TableName;

    use super::{Graph, order};

    fn name(text: &str) -> TableName {
        TableName::new("s", text)
    }

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        edges.iter().map(|(to, from)| (name(to), from.iter().map(|input| name(input)).collect())).collect()
    }

    #[test]
    fn inputs_come_first_whatever_the_names() {
        let (ordered, cycles) = order(&graph(&[("a", &["z"]), ("m", &["a", "elsewhere"]), ("z", &[])]));
        assert_eq!(ordered, [name("z"), name("a"), name("m")]);
        assert!(cycles.is_empty());
    }

    #[test]
    fn each_cycle_is_found_once_and_its_readers_are_in_none() {
        let (ordered, cycles) = order(&graph(&[
            ("a", &["b"]),
            ("b", &["c"]),
            ("c", &["a"]),
            ("d", &["a"]),
            ("e", &["e"]),
            ("f", &[]),
        ]));
        assert_eq!(ordered, [name("f")]);
        assert_eq!(cycles, [vec![name("a"), name("b"), name("c")], vec![name("e")]]);
    }
}
