"""The paper's theory as code: gradient shapes, gradient flow under label noise, the theorem's conditions."""
