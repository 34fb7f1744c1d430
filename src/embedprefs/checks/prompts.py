"""Rules about what is written before a text."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from embedprefs.checks.rule import Found, rule
from embedprefs.checks.subject import Subject
from embedprefs.preferences import Layer

__all__: list[str] = []

ROLES = ("query", "document")

#: Names in [prompts] that something looks for, and those that it should be written under.
LOOKED_FOR = (*ROLES, "task", "passage", "corpus")

#: Names under which guides and other libraries keep the two prompts; sentence-transformers looks for none of them.
ROLE_OF_OTHER_NAME = {
    "search_query": "query",
    "queries": "query",
    "question": "query",
    "questions": "query",
    "retrieval.query": "query",
    "retrieval_query": "query",
    "s2p_query": "query",
    "query_prompt": "query",
    "query_prefix": "query",
    "query_instruction": "query",
    "search_document": "document",
    "documents": "document",
    "doc": "document",
    "docs": "document",
    "passages": "document",
    "answer": "document",
    "text": "document",
    "retrieval.passage": "document",
    "retrieval_document": "document",
    "document_prompt": "document",
    "document_prefix": "document",
    "passage_prompt": "document",
    "passage_prefix": "document",
}


def _quoted(prompt: str) -> str:
    return '"' + prompt.replace("\n", "\\n") + '"'


@rule(
    "prompts-missing",
    "error",
    cases=(1,),
    needs=("facts", "resolved"),
    host_today="`encode_query`, `encode_document` and `encode` return the same vector, without a message. On "
    'all-MiniLM-L6-v2 "hello" and "search_query: hello" have a cosine of 0.35.',
    example='[model]\nname = "lightonai/modernbert-embed-large"\n[prompts]\nquery = ""',
    fix="Write the prompts that the model was trained with; its card names them.",
)
def prompts_missing(subject: Subject) -> Iterator[Found]:
    """A model that was trained with prompts is used without them.

    Such a model has learned to tell queries from documents by what stands before them. Without it, queries and
    documents lie in the wrong part of the space, and retrieval gets worse without any error.
    """
    known = subject.known_model
    if known is None or not known.prompts_required:
        return
    for role in ROLES:
        wanted = known.prompts.get(role, "")
        if wanted and subject.choices[f"prompts.{role}"] == "":
            yield Found(
                f"prompts.{role}",
                f"{known.name} was trained with {_quoted(wanted)} before every {role}, and the prompt here is empty.",
                f"Write {role} = {_quoted(wanted)} under [prompts], or leave the key out: it is then filled in.",
                None if subject.known_by_name else "warning",
            )


@rule(
    "prompts-inherited",
    "warning",
    cases=(1,),
    needs=("facts", "resolved"),
    host_today="A fine-tune whose files hold no prompts is used without any, whatever its base model needs.",
    example="A fine-tune of nomic-ai/modernbert-embed-base that was saved without prompts.",
    fix="State the prompts under [prompts], as the model was fine-tuned.",
)
def prompts_inherited(subject: Subject) -> Iterator[Found]:
    """The prompts are those of the model this one was made from.

    Its own files state none, and the name it goes by says nothing: it is known by its base model, or by a model card
    that came with it. Most fine-tunes keep the prompts of their base model and forget to save them; one that
    was trained without prompts must not get them.
    """
    match = subject.choices.known_model
    if match is None or match.by == "name":
        return
    name = subject.model.name
    relation = f"whose card {name} has" if match.by == "model card" else f"which {name} was made from"
    for role in ROLES:
        choice = subject.choices.choice(f"prompts.{role}")
        if choice.value and choice.origin.layer is Layer.KNOWN_MODEL:
            yield Found(
                f"prompts.{role}",
                f"{_quoted(choice.value)} is the prompt of {match.model.name}, {relation}; its own files state none.",
                f"Write {role} = {_quoted(choice.value)} under [prompts] if it is that model or was fine-tuned with "
                f'it, else {role} = "".',
            )


@rule(
    "prompts-differ",
    "warning",
    cases=(1, 6),
    needs=("facts", "resolved"),
    host_today="Any text is accepted as a prompt; a wrong one only lowers the scores.",
    example='[model]\nname = "intfloat/e5-base-v2"\n[prompts]\nquery = "question: "',
    fix="Use the prompt the model was trained with, or keep yours if the model was fine-tuned with it.",
)
def prompts_differ(subject: Subject) -> Iterator[Found]:
    """A prompt is not the one the model was trained with.

    A prompt of one's own can be right, after fine-tuning or for a model that follows instructions. For others it
    moves every vector away from what the model learned.
    """
    known = subject.known_model
    if known is not None and known.instruction:
        return  # the prompt holds an instruction that is meant to be adapted
    for role in ROLES:
        stated = subject.preferences.prompts.stated().get(role)
        trained = subject.model.prompts.get(role) or (known.prompts.get(role) if known is not None else None)
        if stated and trained and stated != trained:
            only_space = stated.strip() == trained.strip()
            difference = "They differ in the space at the end alone; that too changes the tokens." if only_space else ""
            yield Found(
                f"prompts.{role}",
                f"The prompt is {_quoted(stated)}; the model was trained with {_quoted(trained)}. {difference}".strip(),
                f"Write {role} = {_quoted(trained)}, unless the model was fine-tuned with yours.",
            )


@rule(
    "prompts-not-stated",
    "note",
    cases=(1,),
    needs=("facts", "resolved"),
    host_today="A model whose files hold no prompts is used without any, whether or not it needs them.",
    example='[model]\nname = "someone/a-model-whose-files-hold-no-prompts"',
    fix='Look at the model\'s card. Write its prompts under [prompts], or query = "" and document = "" if it has none.',
)
def prompts_not_stated(subject: Subject) -> Iterator[Found]:
    """Nobody says whether this model needs prompts.

    Its files state none, and it is not in the table of known models. Many models are published that way although
    their cards demand prompts.
    """
    known = subject.known_model
    if known is not None or subject.model.is_static or subject.model.prompts:
        return
    if not subject.preferences.prompts.stated():
        yield Found(
            "prompts.query",
            f"The files of {subject.model.name} state no prompts, and it is no model that embedprefs knows.",
            "Look at the model's card and write its prompts under [prompts]; "
            'query = "" and document = "" say that it has none.',
        )


@rule(
    "prompt-name-unused",
    "error",
    cases=(1, 2),
    host_today="A prompt under any other name than query or document is kept and never applied by `encode_query` or "
    "`encode_document`.",
    example='[prompts]\nsearch_query = "search_query: "',
    fix="Write the prompt under the role it is for: query or document.",
)
def prompt_name_unused(subject: Subject) -> Iterator[Found]:
    """A prompt for queries or documents has a name that is never looked for.

    Queries get the prompt named query, documents the one named document. A prompt under another name is only applied
    where a call names it, so the role it was meant for goes without.
    """
    prompts = subject.preferences.prompts
    for name in prompts.named:
        role = ROLE_OF_OTHER_NAME.get(name.lower().replace("-", "_"))
        if role is not None and role not in prompts.stated():
            yield Found(
                f"prompts.{name}",
                f'"{name}" is kept as a named prompt and is not applied to any {role}.',
                f"Write it as {role} = {_quoted(prompts.named[name])}.",
            )


@rule(
    "prompt-name-near-miss",
    "warning",
    cases=(1, 2),
    host_today="A prompt may have any name, and one that no call names is never applied.",
    example='[prompts]\nqeury = "search_query: "',
    fix="Correct the name; one that is meant as it is can be ignored by this code.",
)
def prompt_name_near_miss(subject: Subject) -> Iterator[Found]:
    """A named prompt is spelled almost like one that is looked for.

    Any name is allowed, so that a slip of the finger makes a further prompt, which is applied only where a call names
    it. The role it was meant for goes without.
    """
    preferences = subject.preferences.prompts
    of_the_model = subject.facts.prompts if subject.facts is not None else {}
    known = dict.fromkeys([*LOOKED_FOR, *of_the_model])
    for name in preferences.named:
        if name in known or name.lower().replace("-", "_") in ROLE_OF_OTHER_NAME:
            continue
        close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.8)
        if close:
            yield Found(
                f"prompts.{name}",
                f'"{name}" is kept as a prompt of its own, which is applied only where a call names it.',
                f"Did you mean {close[0]}?",
            )


@rule(
    "model-prompt-name-unused",
    "warning",
    cases=(1, 2),
    needs=("facts", "resolved"),
    host_today='The placeholder "document": "" is found first, so a model whose own file names its prompt "passage" '
    "(the example in the class's documentation) embeds documents without it: cosine 0.57 to the right vector.",
    example='config_sentence_transformers.json: {"prompts": {"search_query": "search_query: "}}',
    fix="State the prompt under its role in [prompts].",
)
def model_prompt_name_unused(subject: Subject) -> Iterator[Found]:
    """The model's own file keeps a prompt under a name that is never looked for.

    The prompt was meant for queries or documents, but sentence-transformers applies only the ones named query and
    document. `passage` and `corpus` are taken for document here; other names have to be stated.
    """
    for name, prompt in subject.model.prompts.items():
        role = ROLE_OF_OTHER_NAME.get(name.lower().replace("-", "_"))
        if role is not None and prompt and subject.choices[f"prompts.{role}"] == "":
            if role in subject.preferences.prompts.stated():
                continue
            yield Found(
                f"prompts.{role}",
                f'The model\'s own file names a prompt "{name}" ({_quoted(prompt)}), and no {role} gets it.',
                f'Write {role} = {_quoted(prompt)} under [prompts], or {role} = "" if no {role} should.',
            )


@rule(
    "default-prompt-not-applied",
    "warning",
    cases=(3,),
    needs=("facts", "resolved"),
    host_today="`default_prompt_name` holds for `encode` alone; `encode_query` and `encode_document` use the empty "
    "placeholders instead.",
    example='config_sentence_transformers.json: {"prompts": {"retrieval": "..."}, "default_prompt_name": "retrieval"}',
    fix="State the prompt for both roles in [prompts].",
)
def default_prompt_not_applied(subject: Subject) -> Iterator[Found]:
    """The model's default prompt reaches neither queries nor documents.

    The model's own file asks for a prompt before every text, but it would only be applied to calls that name no role.
    """
    name = subject.model.default_prompt_name
    if name is None:
        return
    prompt = subject.model.prompts.get(name, "")
    for role in ROLES:
        if prompt and subject.choices[f"prompts.{role}"] == "" and role not in subject.preferences.prompts.stated():
            yield Found(
                f"prompts.{role}",
                f'The model\'s default prompt "{name}" ({_quoted(prompt)}) is not applied to any {role}.',
                f'Write {role} = {_quoted(prompt)} under [prompts], or {role} = "" if no {role} should get it.',
            )


@rule(
    "prompt-without-space",
    "warning",
    cases=(6,),
    needs=("facts", "resolved"),
    host_today='Prompt and text are joined as they are: "search_query:" and "hello" become other tokens than '
    '"search_query: " and "hello" for a byte-level tokenizer.',
    example='[model]\nname = "lightonai/modernbert-embed-large"\n[prompts]\nquery = "search_query:"',
    fix="End the prompt with a space, or with the line break it was trained with.",
)
def prompt_without_space(subject: Subject) -> Iterator[Found]:
    """A prompt ends without a space, and the tokenizer sees the difference.

    A byte-level tokenizer keeps the space as part of the next word. Without it, the first word of every text becomes
    tokens that the model hardly ever saw after this prompt.
    """
    tokenizer = subject.model.tokenizer
    if tokenizer is None or not tokenizer.byte_level:
        return
    known = subject.known_model
    for role in ROLES:
        prompt = subject.choices[f"prompts.{role}"]
        trained = {subject.model.prompts.get(role), known.prompts.get(role) if known is not None else None}
        if prompt and not prompt[-1].isspace() and prompt not in trained:
            yield Found(
                f"prompts.{role}",
                f"The prompt {_quoted(prompt)} ends without a space, so the first word of each {role} is glued to it.",
                f"Write {role} = {_quoted(prompt + ' ')}.",
            )


@rule(
    "prompt-repeated",
    "error",
    cases=(5,),
    needs=("resolved",),
    host_today="A prefix that is already in the text is put before it once more, without a message.",
    example='[prompts]\ndocument = "search_document: "\n[index]\ntemplate = "search_document: {text}"',
    fix="Leave the prompt out of the template: it is put before every document anyway.",
)
def prompt_repeated(subject: Subject) -> Iterator[Found]:
    """The prompt would stand twice before each text.

    The template of the index already begins with the document prompt, or a prompt repeats itself. The model never saw
    a doubled prefix in training.
    """
    document = subject.choices["prompts.document"]
    template = subject.preferences.index.template
    if document.strip() and template.startswith(document.strip()):
        yield Found(
            "index.template",
            f"The template begins with the document prompt {_quoted(document)}, which is put before every document.",
            f"Write template = {_quoted(template.removeprefix(document.strip()).lstrip())}.",
        )
    for role in ROLES:
        prompt = subject.choices[f"prompts.{role}"].strip()
        half = prompt[: len(prompt) // 2].strip()
        if half and len(half) > 1 and prompt[len(prompt) // 2 :].strip() == half:
            yield Found(
                f"prompts.{role}",
                f"The prompt {_quoted(prompt)} says the same twice.",
                f"Write {role} = {_quoted(half + ' ')}.",
            )


@rule(
    "prompt-too-long",
    "error",
    cases=(7,),
    needs=("facts", "resolved"),
    host_today="The prompt uses up tokens of `max_seq_length`; with a limit of 8 tokens two words of the text are "
    "left, and nothing is said.",
    example='[prompts]\nquery = "Represent this sentence for searching relevant passages: "\n'
    "[tokenizer]\nmax_seq_length = 8",
    fix="Raise tokenizer.max_seq_length, or shorten the prompt if the model allows it.",
)
def prompt_too_long(subject: Subject) -> Iterator[Found]:
    """The prompt leaves little or no room for the text.

    Prompt, special tokens and text share `max_seq_length`. Words are counted here, and a word is at least one token;
    the tokens themselves are counted when the model is loaded.
    """
    limit = subject.choices["tokenizer.max_seq_length"]
    if limit is None:
        return
    tokenizer = subject.model.tokenizer
    specials = tokenizer.specials_per_text if tokenizer is not None else 0
    for role in ROLES:
        prompt = subject.choices[f"prompts.{role}"]
        words = len(prompt.split())
        if not words or 2 * (words + specials) < limit:
            continue
        full = words + specials >= limit
        left = "nothing of the text is read" if full else f"at most {limit - words - specials} of the text are read"
        yield Found(
            f"prompts.{role}",
            f"The prompt has {words} words, the model adds {specials} special tokens, and tokenizer.max_seq_length "
            f"is {limit}: {left}.",
            "Raise tokenizer.max_seq_length.",
            None if full else "warning",
        )


@rule(
    "task-unknown",
    "warning",
    needs=("facts",),
    host_today="`encode(task=...)` is accepted for every model and has an effect only where a Router or the model's "
    "own code looks at it.",
    example='[prompts]\ntask = "retrieval"  # for a model without tasks',
    fix="Leave prompts.task out, or name a prompt of the model.",
)
def task_unknown(subject: Subject) -> Iterator[Found]:
    """A task is stated for a model that has no tasks.

    The model's files hold neither a Router, nor code of their own, nor a prompt of that name, so that the task would
    be passed on and ignored.
    """
    task = subject.preferences.prompts.task
    if task is None:
        return
    facts = subject.model
    has_router = any(module.kind in {"Router", "Asym"} for module in facts.modules)
    named = set(facts.prompts) | set(subject.preferences.prompts.named)
    if not has_router and not facts.custom_code and task not in named:
        listed = f" It has the prompts {', '.join(sorted(named))}." if named else ""
        yield Found(
            "prompts.task",
            f'The task is "{task}", and nothing in the files of {facts.name} looks at a task.{listed}',
            "Leave prompts.task out, or name a prompt of the model.",
        )
