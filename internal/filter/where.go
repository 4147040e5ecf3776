// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/types"
	"github.com/expr-lang/expr/vm"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// An expression is a line that someone typed. These bounds are far above such
// lines, and keep a nonsensical one from taking long.
const (
	maxWhere = 4096 // bytes
	maxNodes = 1000 // of the syntax tree
)

// where is a compiled expression over the fields of events.
//
// The language is the part of expr-lang that can neither loop nor fail: its
// comparisons, logic, arithmetic, lists, lower and upper, has(field), and
// len(field) of a field that is a list.
//
// The environment that the program runs in holds for each field f that it
// uses the value under the name f, the type's zero if it is absent, and its
// presence under presence(f). Each comparison c of fields f and g is compiled
// as presence(f) && presence(g) && c.
type where struct {
	program *vm.Program
	machine vm.VM
	fields  []field
	env     map[string]any
}

// presence is the name of f's presence. No expression can spell it.
func presence(f string) string { return "has " + f }

// compile returns an error that shows the place.
func compile(text string) (*where, error) {
	if len(text) > maxWhere {
		return nil, fmt.Errorf("the expression is longer than %d bytes", maxWhere)
	}
	names := types.Map{}
	r := &rewriter{fields: make(map[string]field), used: make(map[string]bool)}
	for _, f := range fields() {
		names[f.name] = types.TypeOf(f.zero)
		names[presence(f.name)] = types.Bool
		r.fields[f.name] = f
	}
	program, err := expr.Compile(text,
		expr.Env(names),
		expr.DisableAllBuiltins(),
		expr.EnableBuiltin("lower"),
		expr.EnableBuiltin("upper"),
		expr.Function("has", func(...any) (any, error) { return false, nil }, new(func(any) bool)),
		expr.MaxNodes(maxNodes),
		expr.Patch(r),
		expr.AsBool(),
		expr.WarnOnAny(),
	)
	if rerr := r.finish(); rerr != nil {
		return nil, rerr.Bind(file.NewSource(text))
	}
	if err != nil {
		return nil, r.explain(err)
	}
	w := &where{program: program, env: make(map[string]any)}
	for name := range r.used {
		w.fields = append(w.fields, r.fields[name])
	}
	return w, nil
}

// match counts an error as false. None is known to be possible but a division
// of integers by zero with %.
func (w *where) match(e *events.Event) bool {
	for _, f := range w.fields {
		v, ok := f.value(e) // the zero if absent
		w.env[f.name] = v
		w.env[presence(f.name)] = ok
	}
	v, err := w.machine.Run(w.program, w.env)
	return err == nil && v == true
}

// rewriter visits the syntax tree, children before their parents. It refuses
// what is not part of the language, and makes absent fields fail comparisons.
type rewriter struct {
	fields map[string]field
	used   map[string]bool
	err    *file.Error // the first

	lists   []ast.Node                   // lists and ranges that no "in" has used yet
	guarded map[ast.Node]*ast.BinaryNode // comparisons, by what they were replaced with
}

func (r *rewriter) fail(n ast.Node, format string, args ...any) {
	if r.err == nil {
		r.err = &file.Error{Location: n.Location(), Message: fmt.Sprintf(format, args...)}
	}
}

// finish returns the first error.
func (r *rewriter) finish() *file.Error {
	if len(r.lists) > 0 {
		r.fail(r.lists[0], "a list or range can only stand after in")
	}
	return r.err
}

// explain adds to an error of the compiler what it does not know.
func (r *rewriter) explain(err error) error {
	var ferr *file.Error
	if !errors.As(err, &ferr) {
		return errors.New("it must be true or false: compare something, as in rto_ms > 1000")
	}
	if name, ok := strings.CutPrefix(ferr.Message, "unknown name "); ok {
		ferr.Message = r.unknown(name)
	}
	return ferr
}

func (r *rewriter) unknown(name string) string {
	for known := range r.fields {
		if fold(known) == fold(name) {
			return fmt.Sprintf("there is no field %s; it is %s", name, known)
		}
	}
	return "there is no field " + name
}

// replace puts n, which is true or false, in the place of node.
func replace(node *ast.Node, n ast.Node) {
	n.SetType(reflect.TypeFor[bool]())
	ast.Patch(node, n)
}

// Visit implements [ast.Visitor].
func (r *rewriter) Visit(node *ast.Node) {
	if r.err != nil {
		return
	}
	switch n := (*node).(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.StringNode:
	case *ast.IdentifierNode:
		if _, ok := r.fields[n.Value]; ok {
			r.used[n.Value] = true
		} else if n.Value == "$env" {
			r.fail(n, "%s", r.unknown(n.Value))
		}
	case *ast.UnaryNode:
		r.unary(node, n)
	case *ast.BinaryNode:
		r.binary(node, n)
	case *ast.ConditionalNode:
		r.fail(n.Cond, "there is no choice by ?: or if: use && and ||")
	case *ast.ArrayNode:
		r.lists = append(r.lists, n)
	case *ast.CallNode:
		r.call(node, n)
	case *ast.BuiltinNode:
		if n.Name != "lower" && n.Name != "upper" {
			r.fail(n, "there is no function %s", n.Name)
		}
	case *ast.NilNode:
		r.fail(n, "nil is not a value: has(field) tests presence")
	default:
		r.fail(n, "this can't be used here")
	}
}

// call replaces has(field) and len(field). The latter is a builtin of
// expr-lang, which doesn't see it since there is a field of the same name.
func (r *rewriter) call(node *ast.Node, n *ast.CallNode) {
	f, ok := n.Callee.(*ast.IdentifierNode)
	if ok && f.Value == "len" {
		if len(n.Arguments) != 1 || !r.isList(n.Arguments[0]) {
			r.fail(n, "len takes one field that is a list, as in len(sharers)")
			return
		}
		l := &ast.BuiltinNode{Name: "len", Arguments: n.Arguments}
		l.SetType(reflect.TypeFor[int]())
		ast.Patch(node, l)
		return
	}
	if !ok || f.Value != "has" {
		r.fail(n, "the functions are has, len, lower and upper")
		return
	}
	if len(n.Arguments) == 1 {
		if arg, ok := n.Arguments[0].(*ast.IdentifierNode); ok {
			if !r.used[arg.Value] {
				r.fail(arg, "%s", r.unknown(arg.Value))
			}
			replace(node, &ast.IdentifierNode{Value: presence(arg.Value)})
			return
		}
	}
	r.fail(n, "has takes one field, as in has(rto_ms)")
}

// isList reports whether n is a field that is a list.
func (r *rewriter) isList(n ast.Node) bool {
	id, ok := n.(*ast.IdentifierNode)
	if !ok {
		return false
	}
	_, ok = r.fields[id.Value].zero.([]int)
	return ok
}

func (r *rewriter) binary(node *ast.Node, n *ast.BinaryNode) {
	switch n.Operator {
	case "&&", "and", "||", "or", "+", "-", "*", "/", "%", "**", "^":
	case "==", "!=":
		r.enum(n.Left, n.Right)
		r.enum(n.Right, n.Left)
		r.guard(node, n, n.Left, n.Right)
	case "<", "<=", ">", ">=", "contains", "startsWith", "endsWith":
		r.guard(node, n, n.Left, n.Right)
	case "matches":
		if _, ok := n.Right.(*ast.StringNode); !ok {
			r.fail(n.Right, "matches needs a pattern in quotes")
		}
		r.guard(node, n, n.Left, n.Right)
	case "..":
		r.lists = append(r.lists, n)
	case "in":
		r.in(node, n)
	default:
		r.fail(n, "there is no operator %s", n.Operator)
	}
}

// in checks the list, and replaces x in a..b by x >= a && x <= b, which also
// holds for numbers between the integers.
func (r *rewriter) in(node *ast.Node, n *ast.BinaryNode) {
	r.lists = slices.DeleteFunc(r.lists, func(l ast.Node) bool { return l == n.Right })
	if r.isList(n.Right) {
		switch n.Left.Type().Kind() {
		case reflect.Int, reflect.Float64, reflect.Interface:
			r.guard(node, n, n.Left, n.Right)
		default:
			r.fail(n.Left, "the list has numbers, but %s is compared", n.Left.Type())
		}
		return
	}
	switch right := n.Right.(type) {
	case *ast.ArrayNode:
		for _, v := range right.Nodes {
			if !alike(n.Left, v) {
				r.fail(v, "the list has %s, but %s is compared", v.Type(), n.Left.Type())
			}
			r.enum(n.Left, v)
		}
		r.guard(node, n, n.Left, right)
		return
	case *ast.BinaryNode:
		if right.Operator == ".." {
			// Only numbers: they hold no range, so that none is copied twice.
			switch n.Left.Type().Kind() {
			case reflect.Int, reflect.Float64:
			case reflect.Interface:
				return // an error elsewhere
			default:
				r.fail(n, "only a number can be in a range, not %s", n.Left.Type())
				return
			}
			low := &ast.BinaryNode{Operator: ">=", Left: n.Left, Right: right.Left}
			low.SetLocation(n.Location())
			high := &ast.BinaryNode{Operator: "<=", Left: n.Left, Right: right.Right}
			high.SetLocation(n.Location())
			both := &ast.BinaryNode{Operator: "&&", Left: low, Right: high}
			r.guard(node, both, n.Left, right.Left, right.Right)
			return
		}
	}
	r.fail(n.Right, "in needs a list such as [80, 443], or a range such as 8000..8100")
}

// alike reports whether two nodes can be compared. A node of unknown type has
// an error elsewhere.
func alike(a, b ast.Node) bool {
	class := func(n ast.Node) reflect.Kind {
		k := n.Type().Kind()
		if k == reflect.Int {
			return reflect.Float64
		}
		return k
	}
	x, y := class(a), class(b)
	return x == y || x == reflect.Interface || y == reflect.Interface
}

// enum refuses to compare a field of names with a name that it never has.
func (r *rewriter) enum(id, value ast.Node) {
	f, ok := id.(*ast.IdentifierNode)
	if !ok {
		return
	}
	s, ok := value.(*ast.StringNode)
	if !ok {
		return
	}
	names := r.fields[f.Value].names
	if names == nil || slices.Contains(names, s.Value) {
		return
	}
	for _, n := range names {
		if fold(n) == fold(s.Value) {
			r.fail(s, "%s is spelled %q", f.Value, n)
			return
		}
	}
	r.fail(s, "%s is never %q: it is one of %s", f.Value, s.Value, strings.Join(names, ", "))
}

// unary makes "x not in y" a comparison of its own, rather than the opposite
// of one: it is false if x is absent, while !(x in y) is true.
func (r *rewriter) unary(node *ast.Node, n *ast.UnaryNode) {
	if n.Operator != "not" {
		return
	}
	comparison, ok := r.guarded[n.Node]
	if !ok || n.Location().From < leftmost(comparison) {
		return
	}
	guard := n.Node.(*ast.BinaryNode)
	n.Node = comparison
	replace(node, &ast.BinaryNode{Operator: "&&", Left: guard.Left, Right: n})
}

// leftmost returns where the text of n begins.
func leftmost(n ast.Node) int {
	l := leftmostVisitor(n.Location().From)
	ast.Walk(&n, &l)
	return int(l)
}

type leftmostVisitor int

func (l *leftmostVisitor) Visit(n *ast.Node) { *l = min(*l, leftmostVisitor((*n).Location().From)) }

// guard replaces the comparison n by p && n, where p is the presence of what
// it compares.
func (r *rewriter) guard(node *ast.Node, n *ast.BinaryNode, operands ...ast.Node) {
	p := r.allPresent(operands...)
	if p == nil {
		replace(node, n)
		return
	}
	g := &ast.BinaryNode{Operator: "&&", Left: p, Right: n}
	n.SetLocation((*node).Location())
	replace(node, g)
	if r.guarded == nil {
		r.guarded = make(map[ast.Node]*ast.BinaryNode)
	}
	r.guarded[g] = n
}

// allPresent returns an expression for the presence of all nodes, nil if they
// always are.
func (r *rewriter) allPresent(nodes ...ast.Node) ast.Node {
	var all ast.Node
	for _, n := range nodes {
		switch p := r.present(n); {
		case p == nil:
		case all == nil:
			all = p
		default:
			both := &ast.BinaryNode{Operator: "&&", Left: all, Right: p}
			both.SetLocation(n.Location())
			all = both
		}
	}
	return all
}

// present returns an expression for the presence of n's value, nil if it has
// one always. Comparisons and logic always have one.
func (r *rewriter) present(n ast.Node) ast.Node {
	switch n := n.(type) {
	case *ast.IdentifierNode:
		if r.used[n.Value] {
			p := &ast.IdentifierNode{Value: presence(n.Value)}
			p.SetLocation(n.Location())
			return p
		}
	case *ast.UnaryNode:
		if n.Operator == "-" || n.Operator == "+" {
			return r.present(n.Node)
		}
	case *ast.BinaryNode:
		switch n.Operator {
		case "+", "-", "*", "/", "%", "**", "^":
			return r.allPresent(n.Left, n.Right)
		}
	case *ast.BuiltinNode:
		return r.allPresent(n.Arguments...)
	case *ast.ArrayNode:
		return r.allPresent(n.Nodes...)
	}
	return nil
}
