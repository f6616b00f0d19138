"""An HTTP endpoint that OpenAI's clients speak with, over a model that runs here.

``HttpServer(model, ...).run()`` serves. It needs the extra ``serve`` (starlette, uvicorn), which
are imported below this package only.
"""
