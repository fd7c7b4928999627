#!/usr/bin/env python3
"""Writes tests/text/template_vectors.json: small templates with what transformers' chat template environment makes of them, and for each template of
../shared/data/templates a digest of its rendering of each conversation. needs: transformers jinja2"""
import datetime, glob, hashlib, json, os, sys
import transformers.utils.chat_template_utils as utils

NOW = 1784116800        # 2026-07-15 12:00 UTC, told to both sides


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc)


utils.datetime = Clock

TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a \"city\" <now> & later", "parameters": {"type": "object", "properties": {
    "city": {"type": "string", "description": "Its name", "enum": ["Paris", "Zürich"]}, "days": {"type": "integer", "default": 3, "minimum": 0.5},
    "tags": {"type": "array", "items": {"type": "string"}}, "options": {"type": "object", "properties": {"unit": {"type": "string"}}, "required": ["unit"]}}, "required": ["city"]}}}
TOOL2 = {"type": "function", "function": {"name": "noop", "description": "Nothing", "parameters": {"type": "object", "properties": {}}}}
U = lambda text: {"role": "user", "content": text}
A = lambda text, **more: {"role": "assistant", "content": text, **more}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "abc123456", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "ok": True, "none": None, "list": [1, 2.5, "x"]}}}]}
ANSWER = {"role": "tool", "tool_call_id": "abc123456", "name": "get_weather", "content": "{\"temp\": 21}"}
BASE = {"tools": None, "documents": None, "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>"}
CHATS = [
    {"messages": [U("Hello")]},
    {"messages": [{"role": "system", "content": "  Be brief.\n"}, U("Hi <|im_end|> there"), A("Yes?"), U("  äöü 你好 \n")]},
    {"messages": [U("A"), A("<think>\nhm\n</think>\n\nB"), U("C"), A("D")], "add_generation_prompt": False},
    {"messages": [U("Weather?")], "tools": [TOOL, TOOL2]},
    {"messages": [{"role": "system", "content": "S"}, U("Weather?"), CALL, ANSWER], "tools": [TOOL]},
    {"messages": [U("Weather?"), CALL, ANSWER, A("21 degrees"), U("Thanks")], "tools": [TOOL, TOOL2]},
    {"messages": [U([{"type": "text", "text": "part one"}, {"type": "text", "text": " two"}])]},
    {"messages": [U("think"), A("x", reasoning_content="because"), U("again")], "enable_thinking": False, "date_string": "1 Jan 2025"},
    {"messages": [A("first"), U("second")]},
    {"messages": [U("a"), U("b")]},
    {"messages": [{"role": "system", "content": "S"}, U("Weather?"), {**CALL, "content": None}, ANSWER, ANSWER], "tools": [TOOL], "add_generation_prompt": False, "enable_thinking": True},
]
DATA = {"a": 1, "b": 2.5, "s": "Hello World", "u": "äöü 你好", "e": "", "n": None, "t": True, "f": False, "l": [3, 1, 2], "w": ["b", "A", "c"], "d": {"x": 1, "B": 2, "a": [1, {"k": "v"}]}, "p": [{"n": "x", "v": 2}, {"n": "y", "v": 1}, {"n": "z"}],
        "big": 123456789012, "tiny": 1e-7, "huge": 1e22, "q": "it's \"q\"", "nl": "a\nb\n\nc", "items": "shadow", "h": "<b>&</b>"}
SMALL = r'''
{{ a }}|{{ b }}|{{ s }}|{{ n }}|{{ t }}|{{ l }}|{{ d }}|{{ missing }}|{{ tiny }}|{{ huge }}|{{ 1.0 }}|{{ big }}|{{ q }}|{{ [q] }}|{{ (1,) }}|{{ () }}|{{ (1, 'a') }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 1 + 2 * 3 - 4 }} {{ (1 + 2) * 3 }} {{ 1.5 + 1 }} {{ 0.1 + 0.2 }} {{ 'ab' * 3 }} {{ [1] * 2 }} {{ true + 1 }}
{{ 1 ~ 'x' ~ none ~ 2.5 ~ true }} {{ 'a' + 'b' ~ 'c' }} {{ 'a' 'b' }}
{{ 1 < 2 < 3 }} {{ 1 < 2 > 5 }} {{ 1 == 1.0 }} {{ '1' == 1 }} {{ [1, 2] == [1, 2] }} {{ none == missing }} {{ 'a' < 'b' }} {{ 1 != 2 }} {{ true == 1 }}
{{ 'H' in s }} {{ 'z' not in s }} {{ 1 in l }} {{ 'x' in d }} {{ 9 in missing }} {{ not 1 in l }}
{{ a and b }} {{ e or 'x' }} {{ n and missing.x }} {{ not e }} {{ a or missing.x }} {{ 'y' if t else 'n' }} {{ 'y' if f }} {{ 'y' if f else 'z' if f else 'w' }}
{{ s[0] }} {{ s[-1] }} {{ s[1:4] }} {{ s[::-1] }} {{ s[:-3] }} {{ s[-3:] }} {{ s[99] }} {{ l[1:] }} {{ l[::-1] }} {{ l[::2] }} {{ l[-2:] }} {{ u[1] }} {{ u[-2:] }} {{ l[5:2] }} {{ l[10] }} {{ s[8:2:-2] }}
{{ d.x }} {{ d['B'] }} {{ d.a[1].k }} {{ d.none }} {{ d['no'] }} {{ d.get('x') }} {{ d.get('no') }} {{ d.get('no', 5) }} {{ d.items() | list }} {{ d.keys() | list }} {{ d.values() | list }} {{ p[0].n }} {{ p.0.v }}
{{ missing.x }}
{{ n.x }}|{{ s.foo }}|{{ 5 .x }}
{{ missing() }}
{{ s() }}
{{ missing + 1 }}
{{ 's' + 1 }}
{{ 1 + 's' }}
{{ 1 < 's' }}
{{ 1 in 5 }}
{{ 1 // 0 }}
{{ l.append(4) }}
{{ d.pop('x') }}
{{ d.update({'z': 1}) }}
{{ s | nofilter }}
{{ s is notest }}
{{ s.__class__ }}
{{ ''.__class__.__mro__ }}
{{ raise_exception('words ' ~ a) }}
{{ range(5) | list }} {{ range(2, 8, 3) | list }} {{ range(5, 0, -2) | list }} {{ range(0) | list }}
{{ range(100001) | list }}
{{ s.upper() }} {{ s.lower() }} {{ s.title() }} {{ 'hello wORLD'.capitalize() }} {{ s.split() }} {{ s.split('o') }} {{ s.split('o', 1) }} {{ s.rsplit('o', 1) }} {{ ' a  b '.split() }} {{ ' a  b '.split(' ') }} {{ s.startswith('He') }} {{ s.endswith(('x', 'ld')) }} {{ nl.splitlines() }} {{ s.find('o') }} {{ s.find('zz') }} {{ s.replace('o', '0') }} {{ s.replace('o', '0', 1) }} {{ s.count('l') }} {{ ','.join(w) }} {{ '42'.isdigit() }} {{ ' x '.strip() }}| {{ 'xxaxx'.strip('x') }} {{ 'xxaxx'.lstrip('x') }} {{ 'xxaxx'.rstrip('x') }} {{ ' a b c '.split(None, 1) }} {{ 'a-b'.partition('-') }} {{ 'prefix'.removeprefix('pre') }}
{{ s | length }} {{ u | length }} {{ l | length }} {{ d | length }} {{ missing | length }} {{ l | count }}
{{ s | upper }} {{ s | lower }} {{ '  x ' | trim }}| {{ 'xyx' | trim('x') }} {{ 5 | string }} {{ none | string }} {{ 'abc' | list }} {{ d | list }} {{ d | items | list }} {{ missing | items | list }}
{{ missing | default('x') }} {{ e | default('x') }} {{ e | default('x', true) }} {{ n | default('x') }} {{ missing | default }} {{ 0 | d(5, boolean=true) }}
{{ l | sort }} {{ w | sort }} {{ w | sort(case_sensitive=true) }} {{ l | sort(reverse=true) }} {{ d | dictsort }} {{ p | sort(attribute='n', reverse=true) }} {{ w | dictsort if false else 1 }}
{{ l | join(', ') }} {{ l | join }} {{ p | join('-', attribute='n') }} {{ [1, none, true, 'x'] | join('|') }}
{{ l | first }} {{ l | last }} {{ s | first }} {{ [] | first }} {{ l | reverse | list }} {{ s | reverse }} {{ [1, 1, 2] | unique | list }}
{{ w | map('upper') | list }} {{ p | map(attribute='n') | list }} {{ p | map(attribute='v', default=0) | list }} {{ l | select('gt', 1) | list }} {{ l | reject('equalto', 1) | list }} {{ p | selectattr('v') | list }} {{ p | selectattr('v', 'defined') | map(attribute='n') | list }} {{ p | rejectattr('v', 'equalto', 2) | map(attribute='n') | list }} {{ p | selectattr('n', 'in', ['x', 'z']) | list | length }} {{ [0, 1, ''] | select | list }}
{{ '5' | int }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ 2.9 | int }} {{ '2.5' | float }} {{ 3 | float }} {{ -3 | abs }} {{ 2.567 | round(2) }} {{ 2.5 | round }} {{ l | sum }} {{ l | min }} {{ l | max }} {{ p | sum(attribute='v') if false else 0 }}
{{ d | tojson }} {{ q | tojson }} {{ u | tojson }} {{ u | tojson(ensure_ascii=true) }} {{ h | tojson }} {{ l | tojson(indent=2) }} {{ d | tojson(indent=4) }} {{ [] | tojson(indent=2) }} {{ b | tojson }} {{ n | tojson }} {{ huge | tojson }} {{ d | tojson(sort_keys=true) }} {{ d | tojson(separators=(',', ':')) }} {{ "\u2028\x01/" | tojson }}
{{ missing | tojson }}
{{ h | e }} {{ h | safe }} {{ nl | indent }} {{ nl | indent(2, true) }} {{ nl | indent(2, blank=true) }} {{ s | replace('l', 'L') }} {{ s | title }} {{ 'abc' | capitalize }}
{{ s is string }} {{ a is string }} {{ a is number }} {{ t is number }} {{ t is boolean }} {{ a is integer }} {{ b is float }} {{ d is mapping }} {{ l is mapping }} {{ l is sequence }} {{ s is iterable }} {{ a is iterable }} {{ d is sequence }} {{ n is none }} {{ missing is defined }} {{ missing is undefined }} {{ a is defined }} {{ a is not none }} {{ t is true }} {{ f is false }} {{ a is true }} {{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 1 is in [1, 2] }} {{ a is eq 1 }} {{ a is equalto(1) }} {{ 'ABC' is upper }} {{ 'abc' is lower }} {{ range is callable }} {{ n is sameas none }} {{ 1 is ge 1 }}
{{ d['items'] is mapping }} {{ d.items is defined }} {{ d['items'] is callable }} {{ items }}
{% for x in l %}{{ x }}{% if not loop.last %},{% endif %}{% endfor %}|{% for x in [] %}{{ x }}{% else %}none{% endfor %}|{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}|{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% endfor %}|{% for c in 'abc' %}{{ c }}.{% endfor %}|{% for k in d %}{{ k }}{% endfor %}|{% for x in missing %}x{% endfor %}
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.depth }}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }};{% endfor %}
{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for x, y in [1] %}{% endfor %}
{% for x, y in [(1, 2, 3)] %}{% endfor %}
{% set x = 1 %}{% for i in l %}{% set x = i %}{{ x }}{% endfor %}{{ x }} {% set ns = namespace(v=0) %}{% for i in l %}{% set ns.v = ns.v + i %}{% endfor %}{{ ns.v }} {% set y, z = 1, 2 %}{{ y }}{{ z }} {% if true %}{% set k = 5 %}{% endif %}{{ k }}
{% for i in l %}{{ x is defined }}{% set x = i %}{{ x }} {% endfor %}
{% set x %}a{{ a }}b{% endset %}{{ x }}|{% set x | upper %}abc{% endset %}{{ x }}|{% with q = 1, r = 2 %}{{ q + r }}{% endwith %}{{ r }}|{% filter upper %}abc{{ s }}{% endfilter %}
{% set d.x = 5 %}
{% macro m(x, y=2, z='a') %}<{{ x }}{{ y }}{{ z }}>{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, z='q') }}{{ m() }}{{ m(x=5) }}
{% macro m(x) %}{{ x }}{% endmacro %}{{ m(1, 2) }}
{% macro m(x) %}{{ x }}{% endmacro %}{{ m(q=2) }}
{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}{{ f is callable }}
{% macro m() %}{{ g }}{% endmacro %}{% set g = 7 %}{{ m() }}{% for i in [1] %}{% set g = 8 %}{{ m() }}{% endfor %}
{% set x = 'a' if false else 'b' %}{{ x }}{{ 'x' if missing is defined and missing.y else 'z' }}{{ "a\n\t\"\\b\u00e4" }}{{ 'a\'b' }}
{% raw %}{{ not }} {% this %}{% endraw %}|{# comment {{ a }} #}|{#- trimmed -#}  x
  {%- if true %}  a  {%- endif -%}  b  {{- ' c ' -}}  d
{% if a == 2 %}two{% elif a == 1 %}one{% else %}other{% endif %}{% if f %}x{% endif %}{% if missing %}x{% else %}y{% endif %}{% if l and d and s %}z{% endif %}
{{ dict(a=1, b='x') }} {{ {'a': 1, 'b': [1, 2]} }} {{ {'k': {'n': none}}.k.n }} {{ [1, [2, 3]][1][0] }} {{ {}|length }} {{ namespace(a=1).a }}
{{ strftime_now('%Y-%m-%d %H:%M') }} {{ strftime_now("%d %b %Y") }}
{% generation %}kept{% endgeneration %}{{ -a }} {{ +a }} {{ -2|abs }} {{ (-2)|abs }} {{ - 5 + 3 }} {{ not t }} {{ not not t }} {{ 1_000 }} {{ 1e3 }} {{ 5 == 5 and 6 == 6 }}
{{ {"a": 1} == {"a": 1} }} {{ {"a": [1]}["a"][0] }} {{ "%s" if 1 else 2 }} {{ [1, 2, 3][:2] | length }} {{ (l | sort)[0] }} {{ (s ~ '!') | lower }} {{ s.split(' ')[0].lower() }} {{ w|join(',')|upper }}
{% if %}{% endif %}
{% for %}
{{ }}
{{ a
{% endif %}
{% unknown %}
{% if a %}
{{ 'abc }}
{{ a b }}
{{ [1, 2 }}
{{ a | }}
{{ a. }}
{% set = 1 %}
{% include 'x' %}
{% break %}
{{ loop }}
'''.strip("\n").split("\n")
SMALL += ["a\n{% if t %}\n  b\n  {% endif %}\nc\n", "  {% if t %}x{% endif %}\n  {{ a }}  \n{# c #}\n  d\n\n", "x\r\ny\r\n", "{% for i in l %}\n  {{ i }}\n{%- endfor %}\n.", "{% if t +%}\nx{% endif %}\n  {%+ if t %}y{% endif %}", "{{ a -}}\n\n b \n{{- a }}\n", "{% raw -%}  x  {%- endraw %} y", "a {#- x -#} b", "{% set x = 1 -%}\n\n  z", "{{ nl | upper }}\n\n", "   {{ a }}\n   {%- if t %} q {% endif %}   \n", "{% macro q() %}\n  x\n{% endmacro %}\n[{{ q() }}]", "{{ '}}' }}{{ \"%}\" }}{{ {'a': {'b': 1}}['a'] }}", ""]


def render(template, variables):
    try:
        return utils._compile_jinja_template(template).render(**variables)
    except RecursionError:
        raise
    except Exception as e:
        return {"error": type(e).__name__ + ": " + str(e)}


def main():
    full = {}
    out = {"now": NOW, "data": DATA, "small": [[t, render(t, DATA)] for t in SMALL], "chats": [{**BASE, **c} for c in CHATS], "digests": {}}
    for path in sorted(glob.glob("../shared/data/templates/*.jinja")):
        name, text = os.path.basename(path), open(path, encoding="utf-8").read()
        full[name] = [render(text, json.loads(json.dumps(c))) for c in out["chats"]]
        out["digests"][name] = [None if isinstance(r, dict) else hashlib.sha256(r.encode()).hexdigest()[:16] for r in full[name]]
    for case in out["small"]:
        if isinstance(case[1], dict):
            case[1] = None
    with open("tests/text/template_vectors.json", "w", encoding="utf-8") as f:
        json.dump(out, f, ensure_ascii=False, indent=0)
    if len(sys.argv) > 1:
        json.dump(full, open(sys.argv[1], "w"), indent=1)


main()
