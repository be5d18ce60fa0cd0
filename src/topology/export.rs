//! The network for other programs: GraphML (<http://graphml.graphdrawing.org>) for Gephi, yEd and networkx, DOT
//! (<https://graphviz.org/doc/info/lang.html>) for Graphviz. Pure; JSON is `serde`'s.

use std::fmt::Write as _;

use super::{Link, Network, Node};

/// An attribute in GraphML: name, type, and its text, `None` where nothing was measured.
type Field<T> = (&'static str, &'static str, fn(&T) -> Option<String>);

const NODE_FIELDS: [Field<Node>; 13] = [
    ("own", "boolean", |n| Some(n.own.to_string())),
    ("connected", "boolean", |n| Some(n.connected.to_string())),
    ("agent", "string", |n| n.agent.clone()),
    ("transport", "string", |n| n.transport.clone()),
    ("rtt_ms", "double", |n| number(n.rtt_ms)),
    ("rate_bps", "double", |n| number(n.rate_bps)),
    ("bytes_in", "long", |n| Some(n.bytes_in.to_string())),
    ("bytes_out", "long", |n| n.bytes_out.map(|bytes| bytes.to_string())),
    ("degree", "long", |n| Some(n.degree.to_string())),
    ("betweenness", "double", |n| number(n.betweenness)),
    ("cut", "boolean", |n| Some(n.cut.to_string())),
    ("component", "long", |n| Some(n.component.to_string())),
    ("rtt_cluster", "string", |n| n.cluster.map(|name| name.to_string())),
];

const EDGE_FIELDS: [Field<Link>; 5] = [
    ("kind", "string", |e| Some(e.kind.clone())),
    ("current", "boolean", |e| Some(e.current.to_string())),
    ("rtt_ms", "double", |e| number(e.rtt_ms)),
    ("rate_bps", "double", |e| number(e.rate_bps)),
    ("last_seen_us", "long", |e| Some(e.last_seen.to_string())),
];

/// The network as a GraphML document; peers and links in the order of the network.
pub fn graphml(network: &Network) -> String {
    let mut out = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<graphml xmlns=\"http://graphml.graphdrawing.org/xmlns\" \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:schemaLocation=\"http://graphml.graphdrawing.org/xmlns \
         http://graphml.graphdrawing.org/xmlns/1.0/graphml.xsd\">\n",
    );
    for (name, kind, _) in &NODE_FIELDS {
        line(&mut out, format_args!("  <key id=\"n_{name}\" for=\"node\" attr.name=\"{name}\" attr.type=\"{kind}\"/>"));
    }
    for (name, kind, _) in &EDGE_FIELDS {
        line(&mut out, format_args!("  <key id=\"e_{name}\" for=\"edge\" attr.name=\"{name}\" attr.type=\"{kind}\"/>"));
    }
    out.push_str("  <graph id=\"tidegate\" edgedefault=\"undirected\">\n");
    for node in &network.nodes {
        line(&mut out, format_args!("    <node id=\"{}\">", xml(&node.id)));
        data(&mut out, 'n', &NODE_FIELDS, node);
        out.push_str("    </node>\n");
    }
    for (at, edge) in network.edges.iter().enumerate() {
        let (a, b) = (xml(&edge.a), xml(&edge.b));
        line(&mut out, format_args!("    <edge id=\"e{at}\" source=\"{a}\" target=\"{b}\">"));
        data(&mut out, 'e', &EDGE_FIELDS, edge);
        out.push_str("    </edge>\n");
    }
    out.push_str("  </graph>\n</graphml>\n");
    out
}

/// The network as an undirected graph in DOT, drawn by `neato` or `sfdp`.
pub fn dot(network: &Network) -> String {
    let mut out = String::from("graph tidegate {\n  overlap=false;\n  node [shape=ellipse];\n");
    for node in &network.nodes {
        let mut attributes = dot_attributes(&NODE_FIELDS, node);
        if node.own {
            attributes.push("shape=\"doublecircle\"".to_owned());
        } else if node.cut {
            attributes.push("shape=\"octagon\"".to_owned());
        }
        line(&mut out, format_args!("  {} [{}];", quoted(&node.id), attributes.join(", ")));
    }
    for edge in &network.edges {
        let mut attributes = dot_attributes(&EDGE_FIELDS, edge);
        if !edge.current {
            attributes.push("style=\"dashed\"".to_owned());
        }
        line(&mut out, format_args!("  {} -- {} [{}];", quoted(&edge.a), quoted(&edge.b), attributes.join(", ")));
    }
    out.push_str("}\n");
    out
}

fn dot_attributes<T>(fields: &[Field<T>], of: &T) -> Vec<String> {
    fields.iter().filter_map(|(name, _, text)| Some(format!("{name}={}", quoted(&text(of)?)))).collect()
}

fn data<T>(out: &mut String, prefix: char, fields: &[Field<T>], of: &T) {
    for (name, _, text) in fields {
        if let Some(text) = text(of) {
            line(out, format_args!("      <data key=\"{prefix}_{name}\">{}</data>", xml(&text)));
        }
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "{text}");
}

fn number(value: Option<f64>) -> Option<String> {
    value.filter(|value| value.is_finite()).map(|value| value.to_string())
}

/// Text for XML 1.0 content and attributes; what XML cannot hold (§2.2) becomes U+FFFD.
fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\t' | '\n' | '\r' => {
                let _ = write!(out, "&#{};", u32::from(c));
            }
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A double-quoted DOT string. Its one escape is `\"`; a backslash before anything else is read by attributes as an
/// escape of theirs, so it is doubled; line ends become `\n`.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' | '\r' => out.push_str("\\n"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::network::tests::{link, peer, seen};

    fn hostile() -> Network {
        let mut bad = peer("12D3b", Some(12.5));
        bad.agent = Some("a\"<b>&'c\\\u{1}\n]]>".to_owned());
        seen(Some("12D3own"), &[bad, peer("12D3a", None)], &[link("12D3b", "12D3own", "connected")])
    }

    #[test]
    fn graphml_is_well_formed_with_hostile_names() {
        let text = graphml(&hostile());
        assert!(
            text.contains("<data key=\"n_agent\">a&quot;&lt;b&gt;&amp;&apos;c\\\u{fffd}&#10;]]&gt;</data>"),
            "{text}"
        );
        assert!(text.contains("<edge id=\"e0\" source=\"12D3b\" target=\"12D3own\">"), "{text}");
        assert!(text.contains("<data key=\"n_rtt_ms\">12.5</data>"));
        // What was not measured is left out, not zero.
        assert_eq!(text.matches("n_rtt_ms\">").count(), 1);
        let open = |name: &str| text.matches(&format!("<{name} ")).count();
        let close = |name: &str| text.matches(&format!("</{name}>")).count();
        assert_eq!((open("node"), close("node"), open("edge"), close("edge")), (3, 3, 1, 1));
        // Each key that is used is declared.
        for key in text.split("key=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(text.contains(&format!("<key id=\"{key}\"")), "{key}");
        }
    }

    #[test]
    fn dot_quotes_every_name_and_marks_the_node_itself() {
        let text = dot(&hostile());
        assert!(text.starts_with("graph tidegate {") && text.ends_with("}\n"));
        assert!(text.contains("agent=\"a\\\"<b>&'c\\\\\u{fffd}\\n]]>\""), "{text}");
        assert!(text.contains("\"12D3b\" -- \"12D3own\" [kind=\"connected\""), "{text}");
        assert_eq!(text.matches("doublecircle").count(), 1);
        assert!(text.lines().all(|line| line.matches('"').count() % 2 == 0 || line.contains("\\\"")));
    }

    #[test]
    fn an_empty_network_is_a_valid_empty_document() {
        let nothing = seen(None, &[], &[]);
        assert!(graphml(&nothing).contains("edgedefault=\"undirected\">\n  </graph>"));
        assert_eq!(dot(&nothing).lines().count(), 4);
    }
}
